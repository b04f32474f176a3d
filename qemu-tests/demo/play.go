package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"armarium/qemu-tests/world"
)

// play is the demonstration from the first key to the last page.
func (n *network) play(ctx context.Context, r *report, image string, pub world.Publication, auto bool) error {
	total, _, err := pub.Size()
	if err != nil {
		return err
	}
	if err := n.startOutside(ctx, pub); err != nil {
		return err
	}
	b, err := newBox(ctx, n, image)
	if err != nil {
		return err
	}
	defer b.close()
	stick, err := b.hash()
	if err != nil {
		return err
	}
	if err := n.startOthers(); err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	r.shown("a stick built from source boots", "UEFI, USB storage on xHCI, read-only; an empty disk was formatted as the settings say")
	members := []world.Member{b.Member}
	for _, p := range n.others {
		members = append(members, p.Member)
	}
	if err := n.collect(ctx, members, total); err != nil {
		return err
	}
	rows, err := b.Table(ctx, "plugins")
	if err != nil {
		return err
	}
	for _, p := range rows {
		if p.Text("id") == pluginID {
			r.shown("a plugin is fetched and its signature checked", "%s, signed by %s", pluginID, p.Text("signer"))
		}
	}
	au, err := n.au(ctx, b.Member)
	if err != nil {
		return err
	}
	r.shown("a publication is collected over HTTP", "%d URLs, %.1f MB at the box", int(au.Number("urls")), au.Number("bytes")/1e6)

	n.head("every node calls a poll: from now on each knows who agrees with it")
	var first world.Row
	for _, m := range members {
		p, err := n.poll(ctx, m)
		if err != nil {
			return err
		}
		if p.Text("status") != "Complete" || p.Number("agreement") < 1 {
			return fmt.Errorf("%s: its poll ended %s with agreement %.4f", m.Name, p.Text("status"), p.Number("agreement"))
		}
		if m.N == 1 {
			first = p
		}
	}
	r.shown("five nodes poll each other over LCAP V3", "5 polls complete, each with %d voters and 100 %% agreement", int(first.Number("voters")))
	if !auto {
		return n.stayUp(ctx, b, au)
	}
	pages, err := n.pages(ctx, b, au)
	if err != nil {
		return err
	}
	if err := n.damageAndRepair(ctx, r, b, au, first, pages); err != nil {
		return err
	}
	return n.afterwards(ctx, r, b, pub, stick, pages[0])
}

// minPage is the least size in bytes of a page that is damaged.
const minPage = 8192

// pages chooses three pages of the collection, spread over it.
func (n *network) pages(ctx context.Context, b *box, au world.Row) ([]string, error) {
	rows, err := b.Table(ctx, "aus/"+escape(au.Text("au"))+"/urls?limit=10000")
	if err != nil {
		return nil, err
	}
	var all []string
	for _, r := range rows {
		u := r.Text("url")
		if strings.HasPrefix(u, baseURL()+n.section+"/") && strings.HasSuffix(u, ".html") && r.Number("size") >= minPage {
			all = append(all, u)
		}
	}
	if len(all) < 4 {
		return nil, fmt.Errorf("the collection has only %d pages of %d bytes or more; publish a larger one", len(all), minPage)
	}
	return []string{all[len(all)/4], all[len(all)/2], all[3*len(all)/4]}, nil
}

// stayUp tells a person what to try, and waits for Ctrl-C.
func (n *network) stayUp(ctx context.Context, b *box, au world.Row) error {
	n.head("the network is up")
	victim := n.others[0]
	path, err := filepath.Glob(filepath.Join(victim.Disk, "cache", "*", "*", "http", "docs", n.section, "index.html", "#content", "current"))
	if err != nil || len(path) == 0 {
		return fmt.Errorf("%s: its copy of the index page is not where it should be: %v", victim.Name, err)
	}
	fmt.Printf(`
  The box's pages:      %s/   (user %s, password %s)
  Other nodes:          http://127.0.0.1:%d/ to http://127.0.0.1:%d/
  Its audit proxy:      curl -x http://127.0.0.1:%d %s%s/index.html

  Damage a copy at %s, then let it poll; the others repair it:

    printf X | dd conv=notrunc bs=1 seek=100 of='%s'
    ARMARIUM_PASSWORD=%s %s node poll '%s' --wait --node %s --user %s

  Ctrl-C ends everything.

`, b.UI, plan.User, plan.Password, plan.UI+1, plan.UI+nodes-1, b.AuditPort, baseURL(), n.section,
		victim.Name, path[0], plan.Password, filepath.Join(n.bin, "armarium"), au.Text("au"), victim.UI, plan.User)
	<-ctx.Done()
	n.say("demo", "the box is powered off, the nodes are stopped")
	off, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return b.powerOff(off)
}

// damage is one file that is damaged from outside, and what the poll should say of it.
type damage struct {
	what, url string
	do        func(ctx context.Context, node string) error // node: the URL's directory on the disk
}

// damageAndRepair powers the box off, damages three URLs on its disk, boots it again, and
// watches polls find and repair them.
func (n *network) damageAndRepair(ctx context.Context, r *report, b *box, au, first world.Row, pages []string) error {
	n.head("the box is powered off by its power button; three files are damaged on its disk")
	if err := b.powerOff(ctx); err != nil {
		return err
	}
	r.shown("the power button shuts the box down in order", "ACPI; the box went off by itself")
	list := []damage{
		{"one byte altered", pages[0], func(ctx context.Context, node string) error {
			return b.alter(ctx, node+"/#content/current", minPage/2)
		}},
		{"one body removed", pages[1], func(ctx context.Context, node string) error { return b.remove(ctx, node+"/#content/current") }},
		{"one URL removed whole", pages[2], b.removeNode},
	}
	dir := strings.TrimPrefix(au.Text("dir"), "/cache0")
	if dir == "" || dir == au.Text("dir") {
		return fmt.Errorf("the box keeps the collection in %q, not on /cache0", au.Text("dir"))
	}
	for _, d := range list {
		u, err := url.Parse(d.url)
		if err != nil {
			return err
		}
		if err := d.do(ctx, dir+"/"+u.Host+"/"+u.Scheme+u.Path); err != nil {
			return fmt.Errorf("%s: %w", d.what, err)
		}
		n.say("debugfs", "%s: %s", d.what, d.url)
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	polls, err := b.Table(ctx, "polls")
	if err != nil {
		return err
	}
	found := false
	for _, p := range polls {
		found = found || p.Text("key") == first.Text("key")
	}
	now, err := n.au(ctx, b.Member)
	if err != nil {
		return err
	}
	if !found || now.Text("polled") == "" {
		r.failed("content and poll history survive the reboot", fmt.Errorf("poll %s is not in the history after the reboot", first.Text("key")))
	} else {
		r.shown("content and poll history survive the reboot", "%d URLs; poll %s of before the reboot is in its history", int(now.Number("urls")), first.Text("key"))
	}

	n.head("the box polls: the damage is found and repaired from peers")
	p, err := n.poll(ctx, b.Member)
	if err != nil {
		return err
	}
	var detail struct {
		Damage []struct{ URL, Result, Repair, From, After string }
	}
	if err := b.Call(ctx, http.MethodGet, "/api/v1/polls/"+escape(p.Text("key")), nil, &detail); err != nil {
		return err
	}
	repairs, err := b.Table(ctx, "repairs")
	if err != nil {
		return err
	}
	for _, d := range list {
		ok := false
		for _, x := range detail.Damage {
			if x.URL == d.url && x.Result != "WON" {
				r.shown("found: "+d.what, "%s: %s", x.URL, x.Result)
				ok = true
			}
		}
		if !ok {
			r.failed("found: "+d.what, fmt.Errorf("the poll said nothing of %s", d.url))
		}
		ok = false
		for _, x := range repairs {
			if x.Text("url") == d.url && x.Text("result") == "verified" && x.Text("from") != "" {
				r.shown("repaired: "+d.what, "from %s, verified by the poll, version %d", x.Text("from"), int(x.Number("version")))
				ok = true
			}
		}
		if !ok {
			r.failed("repaired: "+d.what, fmt.Errorf("no verified repair of %s from a peer", d.url))
		}
	}
	n.head("the next poll")
	next, err := n.poll(ctx, b.Member)
	if err != nil {
		return err
	}
	if next.Text("status") == "Complete" && next.Number("agreement") == 1 && next.Number("lost") == 0 && next.Number("won") == next.Number("urls") {
		r.shown("the next poll is at 100 %", "%d of %d URLs agreed, %d voters", int(next.Number("won")), int(next.Number("urls")), int(next.Number("voters")))
	} else {
		r.failed("the next poll is at 100 %", fmt.Errorf("%s: %s", next.Text("status"), next.Text("sentence")))
	}
	return nil
}

// afterwards stops the publisher, reads a page from the box, and compares the stick.
func (n *network) afterwards(ctx context.Context, r *report, b *box, pub world.Publication, stick, page string) error {
	n.head("the publisher is gone")
	n.publisher.Stop()
	if _, err := http.Get(page); err == nil {
		return errors.New("the publisher still answers")
	}
	resp, body, err := b.Proxied(ctx, page)
	if err != nil {
		return err
	}
	original, err := os.ReadFile(filepath.Join(pub.Tree, filepath.FromSlash(strings.TrimPrefix(page, baseURL()))))
	if err != nil {
		return err
	}
	const what = "a preserved page is served when the publisher is gone"
	if resp.StatusCode == http.StatusOK && bytes.Equal(body, original) {
		r.shown(what, "%s through the audit proxy: %d bytes, equal to the publisher's", page, len(body))
	} else {
		r.failed(what, fmt.Errorf("%s answered %s with %d bytes, the publisher's page has %d", page, resp.Status, len(body), len(original)))
	}
	if err := b.powerOff(ctx); err != nil {
		return err
	}
	now, err := b.hash()
	if err != nil {
		return err
	}
	if now == stick {
		r.shown("the stick has not changed", "SHA-256 %s… before the first boot and after the last", stick[:16])
	} else {
		r.failed("the stick has not changed", fmt.Errorf("SHA-256 was %s, is %s", stick, now))
	}
	return nil
}
