package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"armarium/qemu-tests/world"
)

const crawlRounds = 3

// crawl collects the documentation from nginx: a node that was never there before, and wget
// into an empty directory.
func (b *bench) crawl(ctx context.Context) error {
	n, err := b.startNetwork("crawl", 1, nil)
	if err != nil {
		return err
	}
	defer n.stop()
	pub := b.publication()
	files, bytes, err := pub.Size()
	if err != nil {
		return err
	}
	nginx := filepath.Join(n.dir, "publisher")
	if err := os.MkdirAll(nginx, 0o755); err != nil {
		return err
	}
	server, err := world.StartPublisher(ctx, nginx, n.plan.PublisherPort, pub)
	if err != nil {
		return err
	}
	defer server.Stop()
	b.say("crawl: %d files of %.1f MB at the publisher; some are linked from no page", files, float64(bytes)/1e6)

	ours := func(ctx context.Context) (float64, error) {
		p, err := n.start(ctx, 1, nil)
		if err != nil {
			return 0, err
		}
		add := map[string]any{"plugin": world.PluginID, "params": n.unitParams(pub.Section)}
		if err := p.Call(ctx, http.MethodPost, "/api/v1/aus", add, nil); err != nil {
			return 0, err
		}
		r, err := ended(ctx, p.Member, "crawls", n.unit(pub.Section), map[string]bool{}, func(world.Row) {})
		if err != nil {
			return 0, err
		}
		if r.Text("status") != "Successful" {
			return 0, fmt.Errorf("crawl ended as %s: %s", r.Text("status"), r.Text("message"))
		}
		took, err := span(r)
		if err != nil {
			return 0, err
		}
		if err := p.Stop(); err != nil {
			return 0, err
		}
		b.say("crawl: ours fetched %d pages in %v", int(r.Number("fetched")), took.Round(time.Millisecond))
		return r.Number("fetched") / took.Seconds(), b.aside(n.home(1))
	}
	peer := func(ctx context.Context) (float64, error) {
		dir := filepath.Join(n.dir, "wget")
		began := time.Now()
		err := quiet(ctx, "wget", "--quiet", "--recursive", "--level=inf", "--no-parent", "--execute=robots=off",
			"--include-directories=/docs/"+pub.Section+",/docs/_static,/docs/_images", "--directory-prefix="+dir,
			fmt.Sprintf("http://%s:%d/docs/lockss-permission.html", world.Address, n.plan.PublisherPort))
		if err != nil {
			return 0, err
		}
		took := time.Since(began)
		got := 0
		err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				got++
			}
			return err
		})
		if err != nil {
			return 0, err
		}
		b.say("crawl: wget fetched %d pages in %v", got, took.Round(time.Millisecond))
		return float64(got) / took.Seconds(), b.aside(dir)
	}
	o, p, err := b.rounds(ctx, "crawl", "pages/s", crawlRounds, ours, peer)
	if err != nil {
		return err
	}
	b.add("crawl", "pages/s", higher, o, p, "wget -r of the same site into a directory; ours digests each page and syncs it to the disk before the next, wget syncs nothing")
	return nil
}

// aside makes room for the next round. Nothing is deleted before the end: file systems
// make new files more slowly for a while after many were deleted.
func (b *bench) aside(dir string) error {
	to, err := b.scratch("old")
	if err != nil {
		return err
	}
	return os.Rename(dir, filepath.Join(to, "old"))
}
