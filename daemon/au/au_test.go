package au

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"armarium/daemon/javaprops"
	"armarium/daemon/lockss"
	"armarium/daemon/plugin"
	"armarium/daemon/store"
)

const pressID = "org.example.press.ExamplePressPlugin"

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	if err := json.Unmarshal(read(t, name), v); err != nil {
		t.Fatal(err)
	}
}

func press(t testing.TB, version string) *plugin.Definition {
	t.Helper()
	b := strings.Replace(string(read(t, "ExamplePressPlugin.xml")), "<string>3</string>", "<string>"+version+"</string>", 1)
	d, err := plugin.ParseDefinition(pressID, []byte(b), nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB, root string) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Roots: []string{root}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func entry(volume string) Entry {
	return Entry{PluginID: pressID, Params: map[string]string{"base_url": "http://press.example/", "volume_name": volume, "pause_time": "7s"}}
}

func auid(volume string) lockss.AUID {
	return lockss.NewAUID(pressID, map[string]string{"base_url": "http://press.example/", "volume_name": volume})
}

func put(t testing.TB, u *Unit, url, body string) {
	t.Helper()
	w, err := u.Content().New(url)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Seal(map[string]string{"x-lockss-node-url": url}); err != nil {
		t.Fatal(err)
	}
}

// Files of 1.x come out byte for byte as they went in.
func TestStateBytes(t *testing.T) {
	var v struct{ XML map[string]string }
	readJSON(t, "state-files.json", &v)
	full := v.XML[stateFile]
	for _, c := range []struct{ name, in, out string }{
		{"vector", full, full},
		{"of a node", string(read(t, "au_state-1.74.xml")), string(read(t, "au_state-1.74.xml"))},
		{
			"unknown elements stay where they are",
			strings.Replace(full, "  <v3Agreement>", "  <future a=\"1\"><x>&amp;y</x></future>\n  <v3Agreement>", 1),
			strings.Replace(full, "  <v3Agreement>", "  <future a=\"1\"><x>&amp;y</x></future>\n  <v3Agreement>", 1),
		},
	} {
		s, err := parseState([]byte(c.in))
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got := string(appendState(nil, s)); got != c.out {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.out)
		}
	}
}

func TestStateValues(t *testing.T) {
	s, err := parseState([]byte("<org.lockss.state.AuState>\n  <accessType>OpenAccess</accessType>\n  <new/>\n</org.lockss.state.AuState>"))
	if err != nil {
		t.Fatal(err)
	}
	if !s.Crawled() || s.LastCrawl.UnixMilli() != 0 {
		t.Errorf("a file without lastCrawlTime: last crawl %v, want the epoch (repository.md 8.1)", s.LastCrawl)
	}
	s.LastCrawl = time.Time{}
	s.LastCrawlResultMsg = "a <b> & 'c'\x01"
	s.V3Agreement, s.HighestV3Agreement = 0.9583333333333334, 0.0001
	s.CDNStems = []string{"http://cdn.example/"}
	got := string(appendState(nil, s))
	for _, want := range []string{
		"\n  <lastCrawlTime>-1</lastCrawlTime>\n  <lastCrawlAttempt>-1</lastCrawlAttempt>\n  <lastCrawlResultMsg>a &lt;b&gt; &amp; &apos;c&apos;?</lastCrawlResultMsg>\n",
		"\n  <v3Agreement>0.9583333333333334</v3Agreement>\n  <highestV3Agreement>1.0E-4</highestV3Agreement>\n  <accessType>OpenAccess</accessType>\n",
		"\n  <lastContentChange>0</lastContentChange>\n", "\n  <new/>\n",
		"\n  <cdnStems>\n    <string>http://cdn.example/</string>\n  </cdnStems>\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	for _, bad := range []string{"", "<AuState/>", "<org.lockss.state.AuState><lastCrawlTime>x</lastCrawlTime></org.lockss.state.AuState>", "<org.lockss.state.AuState>"} {
		if _, err := parseState([]byte(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(read(f, "au_state-1.74.xml"))
	f.Add([]byte("<org.lockss.state.AuState><x y='z'/><cdnStems><string/></cdnStems></org.lockss.state.AuState>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseState(b)
		if err != nil {
			return
		}
		once := appendState(nil, s)
		again, err := parseState(once)
		if err != nil {
			t.Fatalf("%s\nis not read back: %v", once, err)
		}
		if twice := appendState(nil, again); string(twice) != string(once) {
			t.Errorf("got\n%s\nthen\n%s", once, twice)
		}
	})
}

func TestEntries(t *testing.T) {
	props, err := javaprops.Parse(read(t, "au-1.74.txt"))
	if err != nil {
		t.Fatal(err)
	}
	entries, errs := Entries(props)
	if len(errs) > 0 || len(entries) != 1 {
		t.Fatalf("got %v, %v", entries, errs)
	}
	e := entries[0]
	if e.ID != auid("v1") || e.PluginID != pressID || e.Name != "Example Press Volume v1" || e.Disabled || e.Params["volume_name"] != "v1" || len(e.Params) != 2 {
		t.Errorf("got %+v", e)
	}
	delete(props, "org.lockss.config.fileVersion.au")
	if got := e.Props(); !maps.Equal(got, props) {
		t.Errorf("written: %v, want %v", got, props)
	}

	var v []struct{ Entries map[string]string }
	readJSON(t, "au_txt.json", &v)
	entries, errs = Entries(v[0].Entries)
	if len(errs) > 0 || len(entries) != 1 || entries[0].Root != "local:/cache0/gamma" || !maps.Equal(entries[0].Props(), v[0].Entries) {
		t.Errorf("got %+v, %v", entries, errs)
	}
	if _, errs := Entries(map[string]string{"org.lockss.au.x": "1", "org.lockss.au.p.k": "1", "a": "b"}); len(errs) != 2 {
		t.Errorf("bad keys: %v", errs)
	}
}

func TestRegistry(t *testing.T) {
	root := t.TempDir()
	r := NewRegistry(Config{Store: open(t, root), MinFetchDelay: 6 * time.Second})
	bad := entry("v3")
	bad.ID = auid("v9")
	off := entry("v2")
	off.Disabled, off.Name = true, "Volume two"
	errs := r.Configure([]Entry{entry("v1"), off, bad, entry("v1")})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "twice") {
		t.Errorf("before there are plugins: %v, want one entry twice", errs)
	}
	u, ok := r.Unit(auid("v1"))
	if !ok || u.Active() || u.Plugin() != nil || u.Content() != nil || !strings.Contains(u.Problem(), pressID) {
		t.Fatalf("unit without plugin: %v, problem %q", ok, u.Problem())
	}
	if err := u.Update(func(*State) {}); !errors.Is(err, store.ErrNoUnit) {
		t.Errorf("state without content: %v", err)
	}
	if dirs, _ := filepath.Glob(root + "/cache/*"); len(dirs) != 0 {
		t.Errorf("directories of units that never were active: %v", dirs)
	}

	v3 := press(t, "3")
	r.SetPlugins([]*plugin.Definition{v3})
	if u2, _ := r.Unit(auid("v1")); u2 != u || !u.Active() || u.Plugin().PauseTime() != 7*time.Second {
		t.Fatalf("the unit did not start: %q", u.Problem())
	}
	if errs := r.Configure(r.entries); len(errs) != 2 {
		t.Errorf("with plugins: %v, want a wrong id and an entry twice", errs)
	}
	if u2, _ := r.Unit(auid("v2")); u2.Active() || u2.Plugin() == nil || u2.Name() == "" {
		t.Errorf("disabled unit: %q", u2.Problem())
	}

	// A new plugin version binds anew, the same one does not.
	changed := u.Changed()
	r.SetPlugins([]*plugin.Definition{v3})
	select {
	case <-changed:
		t.Error("bound anew without reason")
	default:
	}
	r.SetPlugins([]*plugin.Definition{press(t, "4")})
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the new plugin")
	}
	if got := u.Plugin().Definition().Version(); got != "4" {
		t.Errorf("plugin version %s, want 4", got)
	}

	now := time.UnixMilli(1_800_000_000_000)
	if err := u.Update(func(s *State) { s.LastCrawl = now }); err != nil {
		t.Fatal(err)
	}
	put(t, u, "http://press.example/v1/issue1/", "x")
	reg, err := r.AddRegistryAU("http://press.example/plugins/")
	if err != nil || !reg.IsRegistry() || !reg.Active() {
		t.Fatalf("registry: %v", err)
	}
	if again, err := r.AddRegistryAU("http://press.example/plugins/"); again != reg || err != nil {
		t.Errorf("registry again: %v", err)
	}
	put(t, reg, "http://press.example/v1/issue1", "y")
	for _, url := range []string{"http://press.example/v1/issue1", "HTTP://press.example:80/v1/./issue1/#top"} {
		if got := r.Holding(url); !slices.Equal(got, []*Unit{u, reg}) {
			t.Errorf("holding %s: %v", url, got)
		}
	}
	if got := r.Holding("http://press.example/v1/other"); len(got) != 0 {
		t.Errorf("holding another URL: %v", got)
	}

	// Out of the configuration and back: content and state are found again.
	changed = u.Changed()
	r.Configure(nil)
	if _, ok := r.Unit(auid("v1")); ok || len(r.Units()) != 1 {
		t.Error("the unit is still there")
	}
	<-changed
	if got := r.Holding("http://press.example/v1/issue1"); !slices.Equal(got, []*Unit{reg}) {
		t.Errorf("holding: %v", got)
	}
	r.Configure([]Entry{entry("v1")})
	u, _ = r.Unit(auid("v1"))
	if !u.State().LastCrawl.Equal(now) {
		t.Errorf("last crawl %v, want %v", u.State().LastCrawl, now)
	}
	if names := r.Units(); len(names) != 2 || names[0] != u {
		t.Errorf("units %v", names)
	}
}

// A state file that makes no sense is kept, not lost.
func TestUnreadableState(t *testing.T) {
	st := open(t, t.TempDir())
	c, err := st.Create(auid("v1"), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteState(stateFile, []byte("<AuState/>")); err != nil {
		t.Fatal(err)
	}
	r := NewRegistry(Config{Store: st})
	r.SetPlugins([]*plugin.Definition{press(t, "3")})
	r.Configure([]Entry{entry("v1")})
	u, _ := r.Unit(auid("v1"))
	if err := u.Update(func(s *State) { s.LastCrawlResult = 3 }); err != nil || !u.Active() {
		t.Fatalf("%v, %q", err, u.Problem())
	}
	if b, err := c.ReadState(stateFile + ".deser.old"); string(b) != "<AuState/>" {
		t.Errorf("kept %q, %v", b, err)
	}
	if b, _ := c.ReadState(stateFile); !strings.Contains(string(b), "<lastCrawlResult>3<") {
		t.Errorf("new state %s", b)
	}
}

func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var u Unit
		ctx := t.Context()
		var mu sync.Mutex
		var order []string
		begin := func(name string, crawl bool, ctx context.Context) (end func(), done <-chan error) {
			c := make(chan error, 1)
			var leave func()
			go func() {
				var err error
				if crawl {
					leave, err = u.BeginCrawl(ctx)
				} else {
					leave, err = u.BeginHash(ctx)
				}
				if err == nil {
					mu.Lock()
					order = append(order, name)
					mu.Unlock()
				}
				c <- err
			}()
			synctest.Wait()
			return func() { leave(); leave(); synctest.Wait() }, c
		}
		crawl1, _ := begin("crawl1", true, ctx)
		hash1, _ := begin("hash1", false, ctx)
		hash2, _ := begin("hash2", false, ctx)
		crawl2, _ := begin("crawl2", true, ctx)
		hash3, _ := begin("hash3", false, ctx)
		if !slices.Equal(order, []string{"crawl1"}) || !u.Crawling() {
			t.Fatalf("while a crawl goes on: %v", order)
		}
		short, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_, late := begin("late", false, short)
		time.Sleep(time.Minute)
		if err := <-late; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("hash after its time: %v", err)
		}
		crawl1()
		synctest.Wait()
		slices.Sort(order[1:])
		if !slices.Equal(order, []string{"crawl1", "hash1", "hash2"}) || u.Hashing() != 2 {
			t.Fatalf("after the crawl: %v", order)
		}
		hash1()
		synctest.Wait()
		if len(order) != 3 {
			t.Fatalf("a crawl began beside a hash: %v", order)
		}
		hash2()
		synctest.Wait()
		if len(order) != 4 || order[3] != "crawl2" {
			t.Fatalf("after the hashes: %v, want the crawl that waited before hash3", order)
		}
		crawl2()
		synctest.Wait()
		if len(order) != 5 || u.Hashing() != 1 || u.Crawling() {
			t.Fatalf("at the end: %v", order)
		}

		// A crawl that gives up lets the hashes behind it pass.
		gaveUp, cancel2 := context.WithCancel(ctx)
		begin("crawl3", true, gaveUp)
		hash4, _ := begin("hash4", false, ctx)
		cancel2()
		synctest.Wait()
		if len(order) != 6 || order[5] != "hash4" {
			t.Errorf("behind a crawl that gave up: %v", order)
		}
		hash3()
		hash4()
		if len(u.gate.queue) != 0 || u.Hashing() != 0 {
			t.Errorf("left: %+v", &u.gate)
		}
	})
}
