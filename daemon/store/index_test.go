package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"armarium/daemon/lockss"
)

// fill stores a few URLs in two units and closes the store.
func fill(t *testing.T, root string) {
	t.Helper()
	s := openStore(t, root)
	for n, id := range []lockss.AUID{"p&x~1", "p&x~2"} {
		u, err := s.Create(id, "")
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 + n {
			put(t, u, fmt.Sprintf("http://press.example/%d/%d", n, i), fmt.Sprint(i), nil)
		}
		put(t, u, "http://press.example/both", id.PluginKey(), nil)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func unitOf(t *testing.T, s *Store, id lockss.AUID) *Unit {
	t.Helper()
	u, err := s.Unit(id)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// What happened to the disk between two runs, how many units are stale then; the index agrees
// with the tree afterwards in any case.
func TestIndexStale(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, root string)
		stale  int
	}{
		{"nothing", func(*testing.T, string) {}, 0},
		{"deleted", func(t *testing.T, root string) {
			for _, f := range []string{"index.db", "index.db-wal", "index.db-shm"} {
				os.Remove(filepath.Join(root, f))
			}
		}, 2},
		{"not SQLite", func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, "index.db"), []byte(strings.Repeat("garbage ", 1000)), 0o644))
		}, 2},
		{"empty", func(t *testing.T, root string) { must(t, os.Truncate(filepath.Join(root, "index.db"), 0)) }, 2},
		{"other version", func(t *testing.T, root string) { execIndex(t, root, "PRAGMA user_version = 99") }, 2},
		{"unclean, nothing stored", func(t *testing.T, root string) { execIndex(t, root, "UPDATE meta SET clean = 0") }, 0},
		{"unclean, one stored into", func(t *testing.T, root string) {
			execIndex(t, root, "UPDATE meta SET clean = 0; UPDATE unit SET dirty = 1 WHERE au = 'p&x~1'; DELETE FROM url")
			execIndex(t, root, "UPDATE unit SET dirty = 1")
		}, 2},
		{"rebuild cut short", func(t *testing.T, root string) { execIndex(t, root, "UPDATE unit SET complete = 0 WHERE au = 'p&x~2'") }, 1},
		{"unit renamed", func(t *testing.T, root string) {
			must(t, os.Rename(filepath.Join(root, "cache/a"), filepath.Join(root, "cache/q")))
		}, 1},
		{"units swapped", func(t *testing.T, root string) {
			for _, r := range [][2]string{{"a", "q"}, {"b", "a"}, {"q", "b"}} {
				must(t, os.Rename(filepath.Join(root, "cache", r[0]), filepath.Join(root, "cache", r[1])))
			}
		}, 2},
		{"unit removed", func(t *testing.T, root string) { must(t, os.RemoveAll(filepath.Join(root, "cache/a"))) }, 0},
		{"URL removed at the top", func(t *testing.T, root string) {
			must(t, os.RemoveAll(filepath.Join(root, "cache/a/press.example/http/both")))
		}, 1},
		{"host added", func(t *testing.T, root string) {
			must(t, os.CopyFS(filepath.Join(root, "cache/a/two.example"), os.DirFS(filepath.Join(root, "cache/a/press.example"))))
		}, 1},
		{"1.x has run", func(t *testing.T, root string) {
			must(t, os.WriteFile(filepath.Join(root, "cache/b/#au_state.xml.tmp"), nil, 0o644))
			must(t, os.Rename(filepath.Join(root, "cache/b/#au_state.xml.tmp"), filepath.Join(root, "cache/b/#au_state.xml")))
			must(t, os.RemoveAll(filepath.Join(root, "cache/b/press.example/http/1/0")))
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := t.TempDir()
			fill(t, root)
			c.change(t, root)
			s := openStore(t, root)
			if got := s.Stale(); got != c.stale {
				t.Errorf("%d units are stale, want %d", got, c.stale)
			}
			var steps []string
			// Before any rebuild the answers are right already.
			both := s.Find("http://press.example/both")
			for _, info := range s.Units() {
				_, err := unitOf(t, s, info.ID).Current("http://press.example/both")
				if (err == nil) != slices.Contains(both, info.ID) {
					t.Errorf("Find gives %q, but %s: %v", both, info.ID, err)
				}
			}
			if err := s.Refresh(context.Background(), func(done, total int) { steps = append(steps, fmt.Sprint(done, "/", total)) }); err != nil {
				t.Fatal(err)
			}
			if len(steps) != c.stale+1 || steps[c.stale] != fmt.Sprint(c.stale, "/", c.stale) {
				t.Errorf("progress %q, want %d steps", steps, c.stale+1)
			}
			if got := s.Stale(); got != 0 {
				t.Errorf("%d units are stale after Refresh", got)
			}
			for _, info := range s.Units() {
				indexAgrees(t, unitOf(t, s, info.ID))
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s = openStore(t, root); s.Stale() != 0 {
				t.Errorf("%d units are stale after a clean end", s.Stale())
			}
		})
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// execIndex changes an index behind the store's back.
func execIndex(t *testing.T, root, query string) {
	t.Helper()
	db, err := openDB(filepath.Join(root, "index.db"))
	must(t, err)
	defer db.Close()
	_, err = db.Exec(query)
	must(t, err)
}

// Own state files are no sign of changes by others, neither after a clean end nor after a crash.
func TestIndexOwnState(t *testing.T) {
	for _, clean := range []bool{true, false} {
		root := t.TempDir()
		fill(t, root)
		s := openStore(t, root)
		must(t, unitOf(t, s, "p&x~1").WriteState("#au_state.xml", []byte("<x/>")))
		if clean {
			must(t, s.Close())
		} else {
			abandonStore(s)
		}
		if s = openStore(t, root); s.Stale() != 0 {
			t.Errorf("clean end %v: %d units are stale", clean, s.Stale())
		}
	}
}

// After a checkpoint only units stored into since are stale when the node crashes.
func TestCheckpoint(t *testing.T) {
	root := t.TempDir()
	fill(t, root)
	s := openStore(t, root)
	one, two := unitOf(t, s, "p&x~1"), unitOf(t, s, "p&x~2")
	put(t, one, "http://press.example/new", "x", nil)
	put(t, two, "http://press.example/new", "x", nil)
	must(t, s.Checkpoint())
	put(t, two, "http://press.example/newer", "x", nil)
	abandonStore(s)
	s = openStore(t, root)
	if unitOf(t, s, "p&x~1").entry.isStale() || !unitOf(t, s, "p&x~2").entry.isStale() {
		t.Errorf("%d units are stale, want the second only", s.Stale())
	}
	indexAgrees(t, unitOf(t, s, "p&x~1"))
	indexAgrees(t, unitOf(t, s, "p&x~2"))
}

// abandonStore lets go of the disks as a process does that is killed.
func abandonStore(s *Store) {
	for _, r := range s.roots {
		r.guard.Close()
		r.index.db.Close()
		r.index.db = nil
	}
}

// An index that turns out damaged while in use is replaced; content is stored all the same.
func TestIndexDamagedInUse(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root)
	u, err := s.Create(testAU, "")
	must(t, err)
	for i := range 400 {
		put(t, u, fmt.Sprintf("http://press.example/%s/%d", strings.Repeat("x", 100), i), "x", nil)
	}
	must(t, s.Close())
	f, err := os.OpenFile(filepath.Join(root, "index.db"), os.O_RDWR, 0)
	must(t, err)
	info, err := f.Stat()
	must(t, err)
	rng := rand.New(rand.NewPCG(1, 2))
	for at := int64(4096 * 3); at+4096 <= info.Size(); at += 4096 {
		junk := make([]byte, 4096)
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		if _, err := f.WriteAt(junk, at); err != nil {
			t.Fatal(err)
		}
	}
	must(t, f.Close())
	s = openStore(t, root)
	u = unitOf(t, s, testAU)
	put(t, u, "http://press.example/new", "x", nil)
	if _, err := u.List("", 1000); err != nil {
		t.Logf("first list: %v", err)
	}
	indexAgrees(t, u)
	if _, err := os.Stat(filepath.Join(root, "index.db.damaged")); err != nil {
		t.Errorf("the damaged file: %v", err)
	}
	put(t, u, "http://press.example/newer", "x", nil)
	indexAgrees(t, u)
}

// While it is rebuilt a unit is stored into, and nothing of that is missing afterwards.
func TestRebuildWhileStoring(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root)
	u, err := s.Create(testAU, "")
	must(t, err)
	url := func(i int) string { return fmt.Sprintf("http://press.example/%d/%d", i%10, i) }
	for i := range 200 {
		put(t, u, url(i), "first", nil)
	}
	var g sync.WaitGroup
	for n := range 3 {
		g.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 3))
			for i := range 100 {
				at := url(n + 3*rng.IntN(100))
				if i%10 == 9 {
					u.Deactivate(at) // it may be inactive already
				} else if _, err := tryPut(u, at, fmt.Sprint("body ", n, i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 4 {
		if err := s.Rebuild(context.Background(), nil); err != nil {
			t.Error(err)
		}
	}
	g.Wait()
	indexAgrees(t, u)
	if got := problems(t, u); got != nil {
		t.Errorf("problems %q", got)
	}
}

// The order of keys is the canonical order of URLs, and a key gives its URL back.
func TestURLKey(t *testing.T) {
	urls := []string{
		"http://x", "http://x/", "http://x/A", "http://x/a", "http://x/a/", "http://x/a//b", "http://x/a/b/c", "http://x/a b",
		"http://x/a!b", "http://x/a-b", "http://x/aB", "http://x/aé", "http://x/a一", "http://x/a\U0001F600", "http://x/a\uFFEE", "https://x/",
	}
	for _, a := range urls {
		if got := keyURL(urlKey(a)); got != a {
			t.Errorf("%q comes back as %q", a, got)
		}
		for _, b := range urls {
			if got, want := slices.Compare(urlKey(a), urlKey(b)), lockss.CompareURL(a, b); sign(got) != sign(want) {
				t.Errorf("keys of %q and %q compare %d, URLs %d", a, b, got, want)
			}
		}
	}
}

func sign(n int) int { return min(max(n, -1), 1) }

func BenchmarkSeal(b *testing.B) {
	for _, size := range []int{4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			u := newUnitIn(b, b.TempDir())
			data := strings.Repeat("x", size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				put(b, u, fmt.Sprintf("http://press.example/%d/%d", i%100, i), data, nil)
			}
		})
	}
}

// BenchmarkWalk walks 5000 URLs at a time; its time for each is reported as ns/url.
func BenchmarkWalk(b *testing.B) {
	const n = 5000
	u := newUnitIn(b, b.TempDir())
	for i := range n {
		dir := filepath.Join(u.Dir(), "press.example/http", fmt.Sprint(i%50), fmt.Sprint(i), contentDir)
		must(b, os.MkdirAll(dir, 0o755))
		must(b, os.WriteFile(filepath.Join(dir, current), []byte("x"), 0o644))
		must(b, os.WriteFile(filepath.Join(dir, currentProps), []byte(keyVersion+"=1\ncontent-type=text/html\n"), 0o644))
	}
	b.ReportAllocs()
	for b.Loop() {
		count := 0
		if err := u.Walk(context.Background(), func(string) error { count++; return nil }); err != nil || count != n {
			b.Fatal(count, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/url")
}
