// Package qemutests holds the tests that need the whole product.
package qemutests

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"armarium/qemu-tests/world"
)

var (
	daemonFlag = flag.String("armariumd", "", "the daemon to kill; built when not given")
	seedFlag   = flag.Uint64("seed", 0, "decides when the daemon is killed; 0: by chance, and printed")
	killsFlag  = flag.Int("kills", 50, "how often the daemon is killed")
)

// TestKill kills the real daemon with SIGKILL at moments that a seed decides, half of them
// in crawls of a publisher whose pages change, half of them in repairs of bodies that the
// test damaged. After every kill the tree is opened with package store. Nothing that the
// node had listed in its API may be gone or changed, and no version, old or current, may
// have other bytes than its recorded checksum says, but for bodies that the test damaged.
//
//	go test ./qemu-tests -run TestKill -seed 7
func TestKill(t *testing.T) {
	remove, err := world.SetAddress()
	if err != nil {
		t.Skipf("%v", err)
	}
	t.Cleanup(func() { remove() })
	seed := *seedFlag
	for seed == 0 {
		seed = rand.Uint64() >> 32
	}
	kills := *killsFlag
	if testing.Short() {
		kills = min(kills, 5)
	}
	t.Logf("%d kills, -seed %d", kills, seed)
	k := newKiller(t, seed, kills)

	// A node that has collected the site once, whole.
	k.restart()
	add := map[string]any{"plugin": world.PluginID, "params": k.params()}
	k.call(http.MethodPost, "/api/v1/aus", add)
	k.wait("crawl ended")
	k.acknowledge()
	if len(k.book.acked) < k.press.count() {
		t.Fatalf("the first crawl gave %d URLs, the publisher has %d pages", len(k.book.acked), k.press.count())
	}
	k.victim.Kill()
	k.inspect("after the first crawl")

	for range (kills + 1) / 2 {
		k.killCrawl()
	}
	k.finishCrawl()
	k.startVoters()
	for range kills / 2 {
		k.killRepair()
	}
	k.finishRepairs()
	k.summary()
}

// crawlEvents is how many changes of files the storing of one version makes.
const crawlEvents = 12

// killCrawl changes the site and kills the node in the crawl that collects the change.
func (k *killer) killCrawl() {
	k.begin()
	changed := k.press.change(k.rng)
	k.restart()
	requests := 2 + k.press.count() // permission, index, pages
	n := 1 + k.rng.IntN(requests)
	j := 1 + k.rng.IntN(crawlEvents)
	page := changed[k.rng.IntN(len(changed))]
	if k.book.acked[k.press.base+"pages/"+page] == nil { // new, and not collected in the rounds since
		page = changed[0]
	}
	switch kind := k.rng.IntN(8); {
	case kind < 2:
		k.plan("request %d of %d, before the answer", n, requests)
		k.press.at(n, atRequest, k.fire)
	case kind < 3:
		k.plan("request %d of %d, in the body", n, requests)
		k.press.at(n, inBody, k.fire)
	case kind < 4:
		k.plan("request %d of %d, after the answer", n, requests)
		k.press.at(n, afterAnswer, k.fire)
	default:
		k.plan("change %d of the files of %s", j, page)
		k.watch(page, j)
	}
	k.onLine("crawl ended", 1, k.fireLate)
	// What is stored when a request comes is acknowledged before that request is answered.
	k.press.each(k.acknowledge)
	k.call(http.MethodPost, k.service("/crawl"), map[string]string{})
	k.end()
}

// finishCrawl lets a crawl run to its end, so that the node holds the site as it is now.
func (k *killer) finishCrawl() {
	k.restart()
	k.call(http.MethodPost, k.service("/crawl"), map[string]string{})
	if line := k.wait("crawl ended"); line["status"] != "Successful" {
		k.t.Fatalf("crawl after the kills: %v", line)
	}
	k.acknowledge()
	k.wantSite()
	k.victim.Kill()
	k.inspect("after the last crawl")
}

// killRepair damages bodies and kills the node in the poll that finds them.
func (k *killer) killRepair() {
	k.begin()
	k.restart()
	k.acknowledge()
	damaged := k.damage(3 + k.rng.IntN(4))
	n := 1 + k.rng.IntN(len(damaged))
	j := 1 + k.rng.IntN(crawlEvents)
	page := damaged[k.rng.IntN(len(damaged))]
	switch kind := k.rng.IntN(8); {
	case kind < 1:
		n = min(n, killVoters)
		k.plan("vote %d", n)
		k.onLine("vote received", n, k.fire)
	case kind < 3:
		k.plan("repair %d of %d stored", n, len(damaged))
		k.onLine("repair stored", n, k.fireAcknowledged)
	case kind < 4:
		k.plan("repair %d of %d settled", n, len(damaged))
		k.onLine("repair settled", n, k.fireAcknowledged)
	default:
		k.plan("change %d of the files of %s, which is damaged", j, page)
		k.watch(page, j)
	}
	k.onLine("poll ended", 1, k.fireLate)
	k.call(http.MethodPost, k.service("/poll"), map[string]string{})
	k.end()
}

// finishRepairs lets a poll run to its end: all damage that is left is found and repaired.
func (k *killer) finishRepairs() {
	k.restart()
	k.acknowledge()
	k.damage(1) // at least
	k.call(http.MethodPost, k.service("/poll"), map[string]string{})
	line := k.wait("poll ended")
	if line["status"] != "Complete" || line["agreement"] != "1" {
		k.t.Fatalf("poll after the kills: %v", line)
	}
	k.acknowledge()
	k.wantSite()
	k.victim.Kill()
	k.inspect("after the last poll")
	for url, n := range k.book.current() {
		if k.book.broken(url, n) {
			k.t.Errorf("%s: version %d is current and still damaged", url, n)
		}
	}
}

// daemonProgram builds the daemon unless one was given.
func daemonProgram(t *testing.T) string {
	if *daemonFlag != "" {
		p, err := filepath.Abs(*daemonFlag)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := filepath.Join(t.TempDir(), "armariumd")
	c := exec.Command("go", "build", "-tags", "netgo osusergo sqlite_omit_load_extension", "-o", p, "../daemon")
	c.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("build the daemon: %v\n%s", err, out)
	}
	return p
}
