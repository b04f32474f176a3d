package qemutests

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"armarium/appliance/settings"
	"armarium/daemon/lockss"
	"armarium/daemon/store"
	"armarium/image/diskimg"
	"armarium/image/gpt"
	"armarium/image/layout"
	"armarium/qemu-tests/vm"
	"armarium/qemu-tests/world"
)

var (
	imageFlag = flag.String("image", "build/armarium.img", "generic image to test; relative to the module")
	binFlag   = flag.String("bin", "build", "folder of the programs; relative to the module")
)

// root is the folder of the module.
const root = ".."

// gateway is the host as a box in QEMU's user-mode network sees it, boxAddress the address
// that the network's DHCP server gives to a box.
const (
	gateway    = "10.0.2.2"
	boxAddress = "10.0.2.15"
	uiPort     = 8081
	patience   = 2 * time.Minute // of every wait: an emulated machine on a busy host
)

const (
	user     = "admin"
	password = "correct horse battery"
)

// product finds a file that make builds.
func product(t *testing.T, name, target string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts machines")
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(root, name)
	}
	if _, err := os.Stat(name); err != nil {
		t.Fatalf("%v: run make %s", err, target)
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func genericImage(t *testing.T) string { return product(t, *imageFlag, "image") }

// hostTool runs a program of this machine.
func hostTool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil { // not in every user's path
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		t.Fatalf("%s is missing: run make setup", name)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	return string(out), err
}

func sum(t *testing.T, name string) string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// copyFile copies and leaves holes where there are only zeros.
func copyFile(t *testing.T, to string, from io.Reader) {
	t.Helper()
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	buf, zeros, pos := make([]byte, 1<<20), make([]byte, 1<<20), int64(0)
	for err == nil {
		var n int
		n, err = io.ReadFull(from, buf)
		if n > 0 && !bytes.Equal(buf[:n], zeros[:n]) {
			if _, werr := f.WriteAt(buf[:n], pos); werr != nil {
				t.Fatal(werr)
			}
		}
		pos += int64(n)
	}
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(pos), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// A stick is a configured image and what a person knows of it.
type stick struct {
	path string
	code string // seal code
	keys settings.Keys
}

// hashed is the password as an older box kept it: cheap to check in an emulated machine.
var hashed = fmt.Sprintf("LOCKSS_ADMIN_PASSWD=SHA-256:%x", sha256.Sum256([]byte(password)))

// answers are those of a box in QEMU's user-mode network. The line of the password and
// others are added.
func answers(office *office, more ...string) string {
	return strings.Join(append([]string{
		"# a box in an emulator",
		"LOCKSS_HOSTNAME=box.test.example.org",
		"LOCKSS_IPADDR=" + boxAddress,
		"LOCKSS_ACCESS_SUBNET=10.0.2.0/24",
		"LOCKSS_EMAIL=admin@test.example.org",
		"LOCKSS_ADMIN_USER=" + user,
		"LOCKSS_PROPS_URL=" + office.url("/lockss.xml"),
		"LOCKSS_TEST_GROUP=test",
	}, more...), "\n") + "\n"
}

// newStick configures a copy of the generic image. keys are those of the node; the zero
// value stands for a new node.
func newStick(t *testing.T, text string, keys settings.Keys) stick {
	t.Helper()
	s := stick{path: filepath.Join(t.TempDir(), "stick.img"), keys: keys}
	f, err := os.Open(genericImage(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	copyFile(t, s.path, f)
	im, err := diskimg.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if s.keys.NodeID == "" {
		s.keys = settings.NewKeys()
	}
	if s.keys.ImageID == "" {
		s.keys.ImageID = m.ImageID
	}
	a, err := settings.ParseAnswers([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	slot, err := settings.Seal(*a, s.keys)
	if err != nil {
		t.Fatal(err)
	}
	for i := range layout.Slots {
		if err := im.WriteSlot(i, slot); err != nil {
			t.Fatal(err)
		}
	}
	s.code = settings.SealCode(slot)
	return s
}

// damage changes one byte inside the body of slots.
func (s stick) damage(t *testing.T, slots ...int) {
	t.Helper()
	im, err := diskimg.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for _, i := range slots {
		b, err := im.ReadSlot(i)
		if err != nil {
			t.Fatal(err)
		}
		b[700] ^= 1
		if err := im.WriteSlot(i, b); err != nil {
			t.Fatal(err)
		}
	}
}

// blankDisk makes an empty disk.
func blankDisk(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk.img")
	if err := vm.NewDisk(name, 1<<30); err != nil {
		t.Fatal(err)
	}
	return name
}

// contentFS takes the file system out of a disk that the box has made, so that the tools of
// e2fsprogs can look at it.
func contentFS(t *testing.T, disk string) string {
	t.Helper()
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	table, err := gpt.Read(f, st.Size())
	if err != nil {
		t.Fatalf("partition table of the content disk: %v", err)
	}
	if len(table.Partitions) != 1 || table.Partitions[0].Name != "cache0" {
		t.Fatalf("partitions of the content disk: %+v, want one named cache0", table.Partitions)
	}
	p := table.Partitions[0]
	name := filepath.Join(t.TempDir(), "cache0.ext4")
	copyFile(t, name, io.NewSectionReader(f, table.Offset(p), table.Size(p)))
	return name
}

// readDisk reads a file of a file system that is not mounted.
func readDisk(t *testing.T, fs, name string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "dump")
	out, err := hostTool(t, "debugfs", "-R", fmt.Sprintf("dump %q %q", name, to), fs)
	if err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatalf("%s on the disk: %s", name, out)
	}
	return string(b)
}

// readUnit reads the current version of a URL from the content directory of a file system.
func readUnit(t *testing.T, fs string, id lockss.AUID, url string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := hostTool(t, "debugfs", "-R", fmt.Sprintf("rdump /gamma %q", dir), fs); err != nil {
		t.Fatalf("debugfs: %v: %s", err, out)
	}
	s, err := store.Open(store.Config{Roots: []string{filepath.Join(dir, "gamma")}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	u, err := s.Unit(id)
	if err != nil {
		t.Fatal(err)
	}
	v, err := u.Current(url)
	if err != nil {
		t.Fatal(err)
	}
	r, err := v.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// checkClean has e2fsck look at a file system without changing it.
func checkClean(t *testing.T, fs string) {
	t.Helper()
	out, err := hostTool(t, "e2fsck", "-fn", fs)
	if err != nil || strings.Contains(out, "recover") {
		t.Errorf("e2fsck -fn: %v\n%s", err, out)
	}
}

// An office serves what a network's administrator publishes, and a small publication.
type office struct {
	*world.Office
	srv *httptest.Server
}

// url is where a box finds a path.
func (o *office) url(path string) string {
	return "http://" + net.JoinHostPort(gateway, fmt.Sprint(o.srv.Listener.Addr().(*net.TCPAddr).Port)) + path
}

// startOffice starts an office whose network has the world's signed plugin in its registry.
func startOffice(t *testing.T) *office {
	t.Helper()
	w, err := world.StartOffice()
	if err != nil {
		t.Fatal(err)
	}
	o := &office{Office: w, srv: httptest.NewServer(w)}
	t.Cleanup(o.srv.Close)
	jar, trust, err := world.SignedPlugin("unlimited")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	o.Put("/lockss.xml", world.PropertyFile(map[string]string{
		"org.lockss.plugin.registries":               o.url("/plugins/index.html"),
		"org.lockss.plugin.keystore.location":        o.url("/network.keystore"),
		"org.lockss.crawler.startCrawlsInitialDelay": "0",
		"org.lockss.baseau.minFetchDelay":            "0",
	}), now)
	o.Put("/network.keystore", trust, now)
	o.Put("/plugins/index.html", world.RegistryPage("Test plugins", "plugin.jar"), now)
	o.Put("/plugins/plugin.jar", jar, now)
	return o
}

// publish puts a directory of pages below /docs/, which the plugin can collect.
func (o *office) publish(directory string, pages map[string]string) {
	now := time.Now()
	var list strings.Builder
	for name, text := range pages {
		fmt.Fprintf(&list, "<a href=\"%s/%s\">%s</a>\n", directory, name, name)
		o.Put("/docs/"+directory+"/"+name, []byte(text), now)
	}
	o.Put("/docs/lockss-permission.html", []byte("<html><body><p>LOCKSS system has permission to collect, preserve, and serve this Archival Unit</p>\n"+
		list.String()+"</body></html>\n"), now)
}

// A box is a running machine as person at the console and as administrator at the pages.
type box struct {
	t *testing.T
	*vm.Machine
	world.Member
}

// start starts a machine. Its logs stay in build/qemu-tests, in a folder named after the
// test and which of its boots this is.
func start(t *testing.T, boot string, c vm.Config) *box {
	t.Helper()
	c.Dir = filepath.Join(root, "build/qemu-tests", t.Name(), boot)
	if err := errors.Join(os.RemoveAll(c.Dir), os.MkdirAll(c.Dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	c.Forward = []int{uiPort}
	m, err := vm.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{t: t, Machine: m}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			lines := strings.Split(m.Serial(), "\n")
			t.Logf("last lines of the console, all of them are in %s:\n%s", filepath.Join(c.Dir, "serial.log"),
				strings.Join(lines[max(0, len(lines)-40):], "\n"))
		}
	})
	port, err := m.Port(b.wait(), uiPort)
	if err != nil {
		t.Fatal(err)
	}
	b.Member = world.Plan{User: user, Password: password, UI: port}.Member(1)
	return b
}

// wait bounds one wait.
func (b *box) wait() context.Context {
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

// sees waits for a line on the serial console.
func (b *box) sees(pattern string) vm.Match {
	b.t.Helper()
	m, err := b.Expect(b.wait(), pattern)
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

// step waits for a step of the boot and gives its result and its note.
func (b *box) step(number int, name string) (result, note string) {
	b.t.Helper()
	m := b.sees(fmt.Sprintf(`\[%02d\] %s … (ok|note|FAILED) [0-9.]+ s(?:: ([^\n]*))?\n`, number, name))
	return m.Groups[0], m.Groups[1]
}

// expectStep waits for a step and compares its result and, as a part, its note.
func (b *box) expectStep(number int, name, result, note string) string {
	b.t.Helper()
	r, n := b.step(number, name)
	if r != result || !strings.Contains(n, note) {
		b.t.Errorf("step %s: %s: %s; want %s with %q", name, r, n, result, note)
	}
	return n
}

// expectReady waits until the daemon is healthy and tells when.
func (b *box) expectReady() {
	b.t.Helper()
	b.expectStep(12, "daemon", "ok", "healthy")
	b.expectStep(13, "status", "ok", "ready in ")
	b.t.Logf("%s ready after %.1f s", filepath.Base(b.t.Name()), time.Since(b.Started()).Seconds())
}

// expectRefused waits for the end of a boot that starts no daemon, and for the words on the
// status screen.
func (b *box) expectRefused(sentence string) {
	b.t.Helper()
	b.expectStep(12, "daemon", "note", "not started: "+sentence)
	b.expectStep(13, "status", "ok", "up in ")
	b.sees(`ALARM +` + sentence + `\nWhat to do  \S`)
	b.sees(`Daemon +off\n`)
	if strings.Contains(b.Serial(), "\ndaemon: ") {
		b.t.Error("the daemon wrote a log line, but must not run")
	}
}

// get reads from the REST API.
func (b *box) get(path string, answer any) {
	b.t.Helper()
	if err := b.Call(b.wait(), http.MethodGet, "/api/v1/"+path, nil, answer); err != nil {
		b.t.Fatal(err)
	}
}

// page asks for one of the pages; a redirect is an answer.
func (b *box) page(path string, login bool) *http.Response {
	b.t.Helper()
	req, err := http.NewRequestWithContext(b.wait(), http.MethodGet, b.UI+path, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	if login {
		req.SetBasicAuth(user, password)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		b.t.Fatal(err)
	}
	resp.Body.Close()
	return resp
}

// until asks a table of the REST API until one of its rows satisfies good. What the daemon
// does on its own has no other sign.
func (b *box) until(path string, good func(world.Row) bool) world.Row {
	b.t.Helper()
	ctx := b.wait()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := b.Table(ctx, path)
		if err != nil && ctx.Err() == nil {
			b.t.Fatal(err)
		}
		for _, r := range rows {
			if good(r) {
				return r
			}
		}
		select {
		case <-ctx.Done():
			b.t.Fatalf("%s: %v; last answer %v", path, context.Cause(ctx), rows)
		case <-tick.C:
		}
	}
}

// addUnit adds a directory of the office's publication and gives the AUID. When it returns,
// the daemon has acknowledged.
func (b *box) addUnit(o *office, directory string) string {
	b.t.Helper()
	var added struct{ AU string }
	if err := b.Call(b.wait(), http.MethodPost, "/api/v1/aus", map[string]any{
		"plugin": world.PluginID, "params": map[string]string{"base_url": o.url("/docs/"), "directory": directory},
	}, &added); err != nil {
		b.t.Fatal(err)
	}
	return added.AU
}

// powerOff presses the power button and waits for the end of an ordered shutdown.
func (b *box) powerOff() {
	b.t.Helper()
	if err := b.PowerButton(b.wait()); err != nil {
		b.t.Fatal(err)
	}
	b.sees(`Power button pressed`)
	b.sees(`Shutting down for power off`)
	if strings.Contains(b.Serial(), "[12] daemon … ok") {
		b.sees(`daemon: .*stopped on request`)
		b.sees(`Shutting down: /cache0 unmounted`)
	}
	b.sees(`Shutting down: power off\n`)
	if err := b.Wait(b.wait()); err != nil {
		b.t.Error(err)
	}
}
