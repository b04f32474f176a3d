package disks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"armarium/image/gpt"
)

// makeExt4 makes an ext4 image with the real tool.
func makeExt4(t *testing.T, label string) string {
	t.Helper()
	tool, err := exec.LookPath("mke2fs")
	if err != nil {
		t.Skip("mke2fs is missing: make setup")
	}
	path := filepath.Join(t.TempDir(), "ext4")
	if out, err := exec.Command(tool, "-q", "-F", "-t", "ext4", "-L", label, "-U", "6b1f1b6e-0c2d-4f6e-8a3b-112233445566", path, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return path
}

func TestReadSuperblock(t *testing.T) {
	path := makeExt4(t, "cache17")
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sb, err := ReadSuperblock(f)
	if err != nil {
		t.Fatal(err)
	}
	if sb.Label != "cache17" || sb.UUID != "6b1f1b6e-0c2d-4f6e-8a3b-112233445566" || sb.Size != 16<<20 || !sb.Clean {
		t.Errorf("got %+v", sb)
	}
	if st, _ := f.Stat(); st.ModTime().Sub(sb.Written).Abs() > time.Minute {
		t.Errorf("written %v, file %v", sb.Written, st.ModTime())
	}
	f.WriteAt([]byte{'X'}, superOffset+0x78) // the label, without a new checksum
	if _, err := ReadSuperblock(f); !errors.Is(err, ErrNoExt4) {
		t.Errorf("changed label: got %v, want ErrNoExt4", err)
	}
	f.WriteAt(make([]byte, superSize), superOffset)
	if _, err := ReadSuperblock(f); !errors.Is(err, ErrNoExt4) {
		t.Errorf("zeroes: got %v, want ErrNoExt4", err)
	}
}

// sysDisk makes one disk in a made-up /sys and /dev.
func sysDisk(t *testing.T, root, name, serial string, size int64, content []byte, attrs map[string]string) {
	t.Helper()
	dir := filepath.Join(root, "sys/devices/pci", name)
	all := map[string]string{"size": fmt.Sprint(size / 512), "ro": "0", "removable": "0", "serial": serial}
	for k, v := range attrs {
		all[k] = v
	}
	for k, v := range all {
		p := filepath.Join(dir, k)
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, []byte(v+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(filepath.Join(root, "sys/block"), 0o755)
	os.MkdirAll(filepath.Join(root, "dev"), 0o755)
	os.Symlink(dir, filepath.Join(root, "sys/block", name))
	node := filepath.Join(root, "dev", name)
	if err := os.WriteFile(node, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(node, size); err != nil {
		t.Fatal(err)
	}
}

func TestProbe(t *testing.T) {
	root := t.TempDir()
	ext4, err := os.ReadFile(makeExt4(t, "cache0"))
	if err != nil {
		t.Fatal(err)
	}
	sysDisk(t, root, "vda", "Z9", 100<<20, nil, nil)
	sysDisk(t, root, "vdb", "A1", 16<<20, ext4, nil)
	sysDisk(t, root, "vdc", "M5", 100<<20, []byte{0xeb}, map[string]string{"vdc1/partition": "1", "removable": "1"})
	os.WriteFile(filepath.Join(root, "dev/vdc1"), ext4, 0o644)
	sysDisk(t, root, "loop0", "", 100<<20, nil, nil)
	sysDisk(t, root, "vdd", "", 0, nil, nil)
	stickType, _ := gpt.ParseGUID("b95f1c41-7c0e-4b0d-9a5c-3f6f2d1c8e27")
	sysDisk(t, root, "sda", "S0", 100<<20, nil, nil)
	f, err := os.OpenFile(filepath.Join(root, "dev/sda"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	guid, _ := newGUID()
	if err := gpt.Write(f, 100<<20, &gpt.Table{Disk: guid, Partitions: []gpt.Partition{{Number: 1, Type: stickType, Unique: guid, First: 2048, Last: 4095}}}); err != nil {
		t.Fatal(err)
	}
	f.Close()

	got, err := Probe(filepath.Join(root, "sys"), filepath.Join(root, "dev"), stickType)
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, d := range got {
		s := fmt.Sprintf("%s %s %dM", d.Serial, d.Name, d.Size>>20)
		for _, b := range []struct {
			is   bool
			word string
		}{{d.Blank, "blank"}, {d.Parted, "parted"}, {d.Stick, "stick"}, {d.Removable, "removable"}} {
			if b.is {
				s += " " + b.word
			}
		}
		for _, v := range d.Volumes {
			s += " " + filepath.Base(v.Path) + "=" + v.Super.Label
		}
		text = append(text, s)
	}
	want := []string{"A1 vdb 16M vdb=cache0", "M5 vdc 100M parted removable vdc1=cache0", "S0 sda 100M stick", "Z9 vda 100M blank"}
	if !slices.Equal(text, want) {
		t.Errorf("got  %q\nwant %q", text, want)
	}
}

func TestPlan(t *testing.T) {
	vol := func(label string) []Volume { return []Volume{{Path: "/dev/" + label, Super: Superblock{Label: label}}} }
	any := func(string) bool { return true }
	none := func(string) bool { return false }
	disk := func(serial string, blank bool, v []Volume) Device {
		return Device{Serial: serial, Place: serial, Blank: blank, Volumes: v}
	}
	for _, c := range []struct {
		name    string
		mounts  []string
		devices []Device
		may     func(string) bool
		want    []string
	}{
		{"labelled", []string{"/cache0"}, []Device{disk("A", false, vol("cache0"))}, none, []string{"/cache0 A"}},
		{"missing", []string{"/cache0", "/cache1"}, []Device{disk("A", false, vol("cache1"))}, none, []string{"/cache0  missing", "/cache1 A"}},
		{"double", []string{"/cache0"}, []Device{disk("A", false, vol("cache0")), disk("B", false, vol("cache0"))}, any, []string{"/cache0  double"}},
		{"blank not allowed", []string{"/cache0"}, []Device{disk("A", true, nil)}, none, []string{"/cache0  missing", " A spare"}},
		{"blank allowed", []string{"/cache0", "/cache1"}, []Device{disk("A", true, nil), disk("B", true, nil), disk("C", true, nil)}, any,
			[]string{"/cache0 A format", "/cache1 B format", " C spare"}},
		{"blank by serial", []string{"/cache0"}, []Device{disk("A", true, nil), disk("B", true, nil)}, func(s string) bool { return s == "B" },
			[]string{"/cache0 B format", " A spare"}},
		{"label before blank", []string{"/cache0", "/cache1"}, []Device{disk("A", true, nil), disk("B", false, vol("cache0"))}, any,
			[]string{"/cache0 B", "/cache1 A format"}},
		{"not the stick", []string{"/cache0"}, []Device{{Serial: "S", Place: "S", Blank: true, Stick: true}}, any, []string{"/cache0  missing"}},
		{"not removable", []string{"/cache0"}, []Device{{Serial: "R", Place: "R", Blank: true, Removable: true}}, any, []string{"/cache0  missing", " R spare"}},
		{"not what has partitions", []string{"/cache0"}, []Device{{Serial: "P", Place: "P", Blank: true, Parted: true}}, any, []string{"/cache0  missing", " P spare"}},
		{"not what holds something", []string{"/cache0"}, []Device{disk("X", false, nil), disk("Y", false, vol("home"))}, any,
			[]string{"/cache0  missing", " X spare", " Y spare"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, cl := range Plan(c.mounts, c.devices, c.may) {
				s := cl.Mount + " " + cl.Device.Serial
				if cl.Format {
					s += " format"
				}
				if cl.State != "" {
					s += " " + cl.State
				}
				got = append(got, s)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

// bench is a Keeper whose mounts do nothing: the mount point's directory is the disk.
type bench struct {
	Keeper
	codes  []int // of e2fsck, one for each run
	mounts []string
}

func newBench(codes ...int) *bench {
	b := &bench{codes: codes}
	b.Keeper = Keeper{
		NodeID: "me", UID: os.Getuid(), GID: os.Getgid(),
		Run: func(_ context.Context, name string, args ...string) (int, string, error) {
			code := b.codes[0]
			b.codes = b.codes[1:]
			if code < 0 {
				return -1, "", errors.New("killed")
			}
			return code, "/dev/x1: Root inode is not a directory.\n\n/dev/x1: UNEXPECTED INCONSISTENCY\n", nil
		},
		Mount: func(source, target, fstype string, flags uintptr, data string) error {
			how := "rw"
			if flags&unix.MS_RDONLY != 0 {
				how = "ro"
			}
			b.mounts = append(b.mounts, strings.TrimSpace(fstype+" "+how+" "+data))
			return nil
		},
		Unmount: func(string, int) error { b.mounts = append(b.mounts, "unmount"); return nil },
	}
	return b
}

// appliance.md 7.3 and 7.4.
func TestPrepare(t *testing.T) {
	const (
		peek = "ext4 ro noload"
		rw   = "ext4 rw errors=remount-ro"
		bar  = "tmpfs ro size=4k,mode=0555"
	)
	for _, c := range []struct {
		name   string
		codes  []int
		node   string
		ro     bool
		want   string
		mounts []string
		note   string
	}{
		{name: "clean", codes: []int{0}, want: OK, mounts: []string{peek, "unmount", rw}},
		{name: "repaired", codes: []int{1}, node: "me", want: OK, mounts: []string{peek, "unmount", rw}},
		{name: "again, clean", codes: []int{2, 0}, want: OK, mounts: []string{peek, "unmount", rw}},
		{name: "again, again", codes: []int{2, 2}, want: Damaged, mounts: []string{peek, "unmount", peek}, note: "code 2"},
		{name: "errors", codes: []int{4}, want: Damaged, mounts: []string{peek, "unmount", peek}, note: "code 4: /dev/x1: Root inode is not a directory.)"},
		{name: "operational", codes: []int{8}, want: Damaged, mounts: []string{peek, "unmount", peek}},
		{name: "crash", codes: []int{-1}, want: Damaged, mounts: []string{peek, "unmount", peek}, note: "check ended early: killed"},
		{name: "foreign", node: "other", want: Foreign, mounts: []string{peek, "unmount", bar}, note: "NODE_ID=other"},
		{name: "write-protected", codes: []int{0}, ro: true, want: ReadOnly, mounts: []string{peek, "unmount", "ext4 ro"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.node != "" {
				if err := WriteNode(dir, c.node); err != nil {
					t.Fatal(err)
				}
			}
			b := newBench(c.codes...)
			got := b.Prepare(t.Context(), Claim{Mount: dir, Device: Device{ReadOnly: c.ro}, Volume: Volume{Path: "/dev/x1"}})
			if got.State != c.want || !strings.Contains(got.Note, c.note) {
				t.Errorf("got %s: %s", got.State, got.Note)
			}
			if !slices.Equal(b.mounts, c.mounts) {
				t.Errorf("mounts %q\nwant   %q", b.mounts, c.mounts)
			}
			if len(b.codes) != 0 {
				t.Errorf("%d checks were not run", len(b.codes))
			}
			if c.want == OK {
				if id, err := ReadNode(dir); id != "me" || err != nil {
					t.Errorf("node id %q, %v", id, err)
				}
				if st, err := os.Stat(filepath.Join(dir, "gamma")); err != nil || !st.IsDir() {
					t.Errorf("content root: %v", err)
				}
			}
		})
	}
	b := newBench()
	got := b.Prepare(t.Context(), Claim{Mount: t.TempDir(), State: Missing, Note: "n"})
	if got.State != Missing || !slices.Equal(b.mounts, []string{bar}) {
		t.Errorf("missing disk: %+v, mounts %q", got, b.mounts)
	}
}

func TestContentTable(t *testing.T) {
	d := Device{Size: 8 << 30}
	tab, err := contentTable(d, "cache0")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(d.Size)); err != nil {
		t.Fatal(err)
	}
	if err := IsBlank(f, int64(d.Size)); err != nil {
		t.Fatal(err)
	}
	if err := gpt.Write(f, int64(d.Size), tab); err != nil {
		t.Fatal(err)
	}
	if err := IsBlank(f, int64(d.Size)); !errors.Is(err, ErrNotBlank) {
		t.Errorf("with a table: %v", err)
	}
	got, err := gpt.Read(f, int64(d.Size))
	if err != nil {
		t.Fatal(err)
	}
	p := got.Partitions[0]
	if len(got.Partitions) != 1 || p.First != 2048 || (p.Last+1)%2048 != 0 || p.Last < 8<<21-4096 || p.Name != "cache0" || p.Type.String() != linuxData {
		t.Errorf("got %+v", got.Partitions)
	}
}
