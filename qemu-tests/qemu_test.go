// The QEMU tests start the image in emulated machines, as a librarian would start it
// from a stick, and looks at the serial console, the REST API, and afterwards the bytes of
// stick and disk (appliance.md 16, levels Q1 and Q2).
//
//	make image && go test ./qemu-tests -run QEMU [-image FILE] [-bin FOLDER]
//
// The standing set has 9 boots, all by UEFI from a USB stick on xHCI; it is to stay at ten
// at most.
//
//	FirstStart       1   configured by the command line tool, write switch on, blank disk,
//	                     power button
//	PowerCut         2   stick without switch: locked by the kernel; cut after an
//	                     acknowledgement; next start finds it, stick detached
//	OneSlotDamaged   1   used with a warning; other controller and network card
//	NoDisk           1   daemon refused
//	ForeignDisk      1   daemon refused, disk untouched
//	DamagedSettings  1   halt before the daemon
//	OtherImage       1   settings of another image
//	NotConfigured    1   generic image
//
// Logs of the machines are kept in build/qemu-tests.

package qemutests

import (
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"armarium/appliance/settings"
	"armarium/daemon/lockss"
	"armarium/daemon/platform"
	"armarium/daemon/status"
	"armarium/qemu-tests/vm"
	"armarium/qemu-tests/world"
)

// unchanged reports when a file is not what it was.
func unchanged(t *testing.T, what, name, before string) {
	t.Helper()
	if after := sum(t, name); after != before {
		t.Errorf("%s changed: SHA-256 %s, before %s", what, after, before)
	}
}

func TestQEMUFirstStart(t *testing.T) {
	o := startOffice(t)
	dir := t.TempDir()
	file, stick := filepath.Join(dir, "answers.txt"), filepath.Join(dir, "box.img")
	if err := os.WriteFile(file, []byte(answers(o, "ADMIN_PASSWORD="+password, "CACHE_DISKS=serial:DISK-1", "LOCK_REQUIRE=hardware")), 0o600); err != nil {
		t.Fatal(err)
	}
	tool := func(args ...string) string {
		t.Helper()
		out, err := exec.CommandContext(t.Context(), product(t, filepath.Join(*binFlag, "armarium"), "all"), args...).CombinedOutput()
		if err != nil {
			t.Fatalf("armarium %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	made := tool("image", "configure", genericImage(t), "--answers", file, "-o", stick)
	told := tool("image", "inspect", stick)
	code := regexp.MustCompile(`seal code +((?:[A-Z2-7]{4}-?){4})`)
	m := code.FindStringSubmatch(told)
	if m == nil || !strings.Contains(made, m[1]) || !strings.Contains(told, "files         as in the manifest") {
		t.Fatalf("configure said %q, inspect said %q", made, told)
	}
	before := sum(t, stick)

	disk := blankDisk(t)
	b := start(t, "", vm.Config{Image: stick, Disks: []vm.Disk{{Path: disk, Serial: "DISK-1"}}})
	b.expectStep(3, "stick", "ok", "write switch on, found by the firmware's word")
	b.expectStep(5, "lock", "ok", "hardware, write refused with ")
	b.expectStep(6, "settings", "ok", "seal code "+m[1])
	b.expectStep(7, "network", "ok", boxAddress+"/24, dhcp")
	b.expectStep(9, "disks", "ok", "/cache0 ok (new disk, formatted)")
	b.expectStep(10, "seal", "ok", "root read-only")
	b.expectReady()
	if err := b.Healthy(b.wait()); err != nil {
		t.Fatal(err)
	}

	var box status.BoxRow
	b.get("box", &box)
	if box.Host != "box.test.example.org" || box.Seal != m[1] || box.Lock != platform.LockHardware || box.Sentence != "running" || box.Alarm {
		t.Errorf("the box tells of itself %+v", box)
	}
	d := b.until("disks", func(r world.Row) bool { return r.Text("path") == "/cache0/gamma" })
	if d.Text("state") != "ok" || d.Text("serial") != "DISK-1" || d.Number("total") < 900e6 || d.Number("free") < 800e6 {
		t.Errorf("the disk is %v", d)
	}
	if resp := b.page("/disks", true); resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		t.Errorf("the page of the disks answered %s, %s", resp.Status, resp.Header.Get("Content-Type"))
	}
	if resp := b.page("/disks", false); resp.StatusCode == http.StatusOK {
		t.Error("pages are shown without a login")
	}
	b.powerOff()

	unchanged(t, "the stick", stick, before)
	fs := contentFS(t, disk)
	checkClean(t, fs)
	id := strings.TrimSpace(readDisk(t, fs, "/.node"))
	if !strings.Contains(told, "node id       "+id+"\n") {
		t.Errorf("the disk is marked as %q, the stick told %s", id, told)
	}
	if db := readDisk(t, fs, "/gamma/node.db"); !strings.HasPrefix(db, "SQLite format 3\x00") {
		t.Error("the daemon left no database on the disk")
	}
}

// What the daemon has acknowledged survives a power cut, and a stick without a write switch
// cannot be written by root.
func TestQEMUPowerCut(t *testing.T) {
	o := startOffice(t)
	pages := map[string]string{"index.html": "<p>first page", "a b.html": "<p>second page", "big.txt": strings.Repeat("0123456789abcdef", 1<<16)}
	o.publish("kept", pages)
	first := newStick(t, answers(o, hashed, "CACHE_DISKS=any-blank", "DETACH=no"), settings.Keys{})
	disk := blankDisk(t)
	before := sum(t, first.path)

	b := start(t, "cut", vm.Config{Image: first.path, Writable: true, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(3, "stick", "ok", " MB, found by")
	b.expectStep(5, "lock", "ok", "kernel, write refused with EPERM on disk and 3 partitions")
	b.expectStep(9, "disks", "ok", "/cache0 ok (new disk, formatted)")
	b.expectReady()
	b.until("plugins", func(r world.Row) bool { return r.Text("id") == world.PluginID })
	kept := b.addUnit(o, "kept")
	crawl := b.until("crawls", func(r world.Row) bool { return r.Text("au") == kept && r.Text("status") == "Successful" })
	last := b.addUnit(o, "added-last")
	if err := b.CutPower(); err != nil {
		t.Fatal(err)
	}
	unchanged(t, "the stick", first.path, before)

	// The same node, next generation, from a stick that is to be detached.
	keys := first.keys
	keys.Generation++
	second := newStick(t, answers(o, hashed, "DETACH=yes"), keys)
	before = sum(t, second.path)
	b = start(t, "after", vm.Config{Image: second.path, Writable: true, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(5, "lock", "ok", "detached, write refused with EPERM on disk and 3 partitions; then detached from USB")
	b.expectStep(6, "settings", "ok", "seal code "+second.code)
	if note := b.expectStep(9, "disks", "ok", "/cache0 ok"); strings.Contains(note, "formatted") {
		t.Errorf("a content disk was formatted: %s", note)
	}
	b.expectReady()
	var box status.BoxRow
	b.get("box", &box)
	if box.Lock != platform.LockDetached || box.Seal != second.code {
		t.Errorf("the box tells of itself %+v", box)
	}
	b.until("aus", func(r world.Row) bool { return r.Text("au") == last })
	b.until("actions", func(r world.Row) bool { return r.Text("object") == last && r.Text("what") == "added collection" })
	b.until("crawls", func(r world.Row) bool {
		return r.Text("au") == kept && r.Text("started") == crawl.Text("started") && r.Number("fetched") == crawl.Number("fetched")
	})

	// Any stick of the project that is plugged in is locked too.
	other := newStick(t, answers(o, hashed), settings.Keys{})
	otherBefore := sum(t, other.path)
	if err := b.Plug(b.wait(), vm.Disk{ID: "other", Path: other.path, Bus: "usb"}); err != nil {
		t.Fatal(err)
	}
	b.sees(`a stick was plugged in and locked .*lock=kernel err=<nil>`)
	b.powerOff()

	unchanged(t, "the stick", second.path, before)
	unchanged(t, "the other stick", other.path, otherBefore)
	fs := contentFS(t, disk)
	checkClean(t, fs)
	if id := strings.TrimSpace(readDisk(t, fs, "/.node")); id != keys.NodeID {
		t.Errorf("the disk is marked as %s, the node is %s", id, keys.NodeID)
	}
	for name, text := range pages {
		if got := readUnit(t, fs, lockss.AUID(kept), o.url("/docs/kept/"+url.PathEscape(name))); got != text {
			t.Errorf("%s has other bytes than published: %d, want %d", name, len(got), len(text))
		}
	}
}

// One damaged copy of the settings does not stop the box, but it does not let the operator
// forget. The machine has its disk and its network card on other controllers.
func TestQEMUOneSlotDamaged(t *testing.T) {
	o := startOffice(t)
	s := newStick(t, answers(o, hashed, "CACHE_DISKS=any-blank"), settings.Keys{})
	s.damage(t, 0)
	before := sum(t, s.path)
	b := start(t, "", vm.Config{Image: s.path, Disks: []vm.Disk{{Path: blankDisk(t), Bus: "ahci", Serial: "SATA-7"}}, NIC: "e1000e"})
	b.expectStep(6, "settings", "note", "seal code "+s.code+", from slot 1; slot 0: settings slot: body: damaged")
	b.expectStep(7, "network", "ok", boxAddress)
	b.expectReady()
	b.sees(`ALARM +running, but a person should look\nWhat to do  One of the two copies of the settings is damaged: make a new stick\.\n`)
	var box status.BoxRow
	b.get("box", &box)
	if !box.Alarm || box.Seal != s.code || len(box.Todo) == 0 || !strings.Contains(box.Todo[0], "make a new stick") {
		t.Errorf("the box tells of itself %+v", box)
	}
	d := b.until("disks", func(r world.Row) bool { return r.Text("path") == "/cache0/gamma" })
	if d.Text("state") != "ok" || d.Text("serial") != "SATA-7" {
		t.Errorf("the disk is %v", d)
	}
	b.powerOff()
	unchanged(t, "the stick", s.path, before)
}

func TestQEMUNoDisk(t *testing.T) {
	s := newStick(t, answers(startOffice(t), hashed, "CACHE_DISKS=any-blank"), settings.Keys{})
	b := start(t, "", vm.Config{Image: s.path})
	b.expectStep(6, "settings", "ok", "seal code "+s.code)
	b.expectStep(9, "disks", "FAILED", "/cache0 missing")
	b.expectRefused("no content disk, the daemon is not started")
	b.powerOff()
}

func TestQEMUForeignDisk(t *testing.T) {
	const owner = "0123456789abcdef0123456789abcdef"
	s := newStick(t, answers(startOffice(t), hashed, "CACHE_DISKS=any-blank"), settings.Keys{})
	tree, disk := t.TempDir(), filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(filepath.Join(tree, ".node"), []byte(owner+"\n"), 0o444); err != nil {
		t.Fatal(err)
	}
	if out, err := hostTool(t, "mke2fs", "-q", "-t", "ext4", "-L", "cache0", "-d", tree, disk, "256M"); err != nil {
		t.Fatalf("mke2fs: %v: %s", err, out)
	}
	before := sum(t, disk)
	b := start(t, "", vm.Config{Image: s.path, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(9, "disks", "FAILED", "/cache0 foreign (belongs to node "+owner)
	b.expectRefused("no content disk, the daemon is not started")
	b.powerOff()
	unchanged(t, "the disk of another node", disk, before)
}

// Damaged settings are never taken for missing ones: the blank disk stays blank.
func TestQEMUDamagedSettings(t *testing.T) {
	s := newStick(t, answers(startOffice(t), hashed, "CACHE_DISKS=any-blank"), settings.Keys{})
	s.damage(t, 0, 1)
	disk := blankDisk(t)
	before, diskBefore := sum(t, s.path), sum(t, disk)
	b := start(t, "", vm.Config{Image: s.path, Writable: true, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(5, "lock", "ok", "kernel, write refused with EPERM on disk and 3 partitions")
	b.expectStep(6, "settings", "FAILED", "damaged: slot 0: ")
	b.expectRefused("configuration damaged, use the spare stick")
	b.powerOff()
	unchanged(t, "the stick", s.path, before)
	unchanged(t, "the disk", disk, diskBefore)
}

func TestQEMUOtherImage(t *testing.T) {
	keys := settings.NewKeys()
	keys.ImageID = "00000000000000000000000000000001"
	s := newStick(t, answers(startOffice(t), hashed, "CACHE_DISKS=any-blank"), keys)
	disk := blankDisk(t)
	before, diskBefore := sum(t, s.path), sum(t, disk)
	b := start(t, "", vm.Config{Image: s.path, Writable: true, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(6, "settings", "FAILED", "wrong image: settings are made for image "+keys.ImageID)
	b.expectRefused("the settings were sealed for another image")
	b.powerOff()
	unchanged(t, "the stick", s.path, before)
	unchanged(t, "the disk", disk, diskBefore)
}

func TestQEMUNotConfigured(t *testing.T) {
	image, disk := genericImage(t), blankDisk(t)
	before := sum(t, disk)
	b := start(t, "", vm.Config{Image: image, Disks: []vm.Disk{{Path: disk}}})
	b.expectStep(6, "settings", "note", "not configured")
	b.expectStep(9, "disks", "note", "none mounted")
	b.expectRefused("not configured")
	b.powerOff()
	unchanged(t, "the disk", disk, before)
}
