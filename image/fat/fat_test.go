package fat

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const volumeSize = 70 << 20 // with clusters of 1 KiB a little above the least for FAT32

func bytesOf(n int) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{1})
	rng.Read(b)
	return b
}

func example() Volume {
	return Volume{Label: "PRESERVE", Serial: 0x12345678, ClusterSize: 1024, Hidden: 4096, Files: []File{
		{"EFI/BOOT/BOOTX64.EFI", bytesOf(3<<20 + 7)},
		{"README.TXT", []byte("read me")},
		{"EFI/EMPTY", nil},
		{"EXACT.BIN", bytesOf(2048)},
	}}
}

type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

func written(t testing.TB, v Volume) memory {
	t.Helper()
	m := make(memory, volumeSize)
	if err := Write(m, volumeSize, v); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	v := example()
	m := written(t, v)
	if !bytes.Equal(m, written(t, v)) {
		t.Error("two writes differ")
	}
	fs, err := Open(bytes.NewReader(m))
	if err != nil {
		t.Fatal(err)
	}
	if fs.Label != v.Label || fs.Serial != v.Serial {
		t.Errorf("label %q, serial %x", fs.Label, fs.Serial)
	}
	if n := len(fs.Files()); n != len(v.Files) {
		t.Errorf("%d files, want %d", n, len(v.Files))
	}
	at := map[string]Entry{}
	for _, e := range fs.Files() {
		at[e.Name] = e
	}
	for _, f := range v.Files {
		b, err := fs.ReadFile(strings.ToLower(f.Name), 1<<30)
		if err != nil || !bytes.Equal(b, f.Data) {
			t.Errorf("%s: %d bytes, %v, want %d", f.Name, len(b), err, len(f.Data))
		}
		e := at[f.Name]
		if !e.Contiguous || e.Size != int64(len(f.Data)) {
			t.Errorf("%s: %+v", f.Name, e)
		}
		if e.Size == 0 {
			continue
		}
		// A BIOS loader takes a file by its sectors.
		if e.Offset%512 != 0 || !bytes.Equal(m[e.Offset:e.Offset+e.Size], f.Data) {
			t.Errorf("%s does not lie whole at byte %d", f.Name, e.Offset)
		}
	}
	if _, err := fs.ReadFile("NONE", 1); !errors.Is(err, ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := fs.ReadFile("README.TXT", 3); err == nil {
		t.Error("a file larger than the limit was read")
	}
}

func tool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if p, err = exec.LookPath("/usr/sbin/" + name); err != nil {
			t.Fatalf("%s is missing: run make setup", name)
		}
	}
	return p
}

// Independent programs agree.
func TestIndependentReaders(t *testing.T) {
	fsck, mcopy := tool(t, "fsck.vfat"), tool(t, "mcopy")
	dir := t.TempDir()
	name := filepath.Join(dir, "fat")
	v := example()
	if err := os.WriteFile(name, written(t, v), 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(fsck, "-n", "-v", name).CombinedOutput()
	if err != nil || strings.Contains(string(out), "differ") || !strings.Contains(string(out), "32 bit entries") {
		t.Errorf("fsck.vfat: %v\n%s", err, out)
	}
	for _, f := range v.Files {
		got, err := exec.Command(mcopy, "-i", name, "::"+f.Name, "-").Output()
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("mcopy %s: %d bytes, %v, want %d", f.Name, len(got), err, len(f.Data))
		}
	}
}

// A file system of another program can be read: long names, pieces, removed files.
func TestForeign(t *testing.T) {
	mkfs, mcopy, mdel := tool(t, "mkfs.vfat"), tool(t, "mcopy"), tool(t, "mdel")
	dir := t.TempDir()
	name := filepath.Join(dir, "fat")
	if err := os.WriteFile(name, make([]byte, volumeSize), 0o666); err != nil {
		t.Fatal(err)
	}
	do := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	put := func(as string, data []byte) {
		t.Helper()
		from := filepath.Join(dir, "from")
		if err := os.WriteFile(from, data, 0o666); err != nil {
			t.Fatal(err)
		}
		do(mcopy, "-i", name, from, "::"+as)
	}
	do(mkfs, "-F", "32", "-s", "2", "-n", "OTHER", name)
	put("HOLE", bytesOf(1<<20))
	put("a long name.text", []byte("long"))
	do(mdel, "-i", name, "::HOLE")
	put("PIECES", bytesOf(3<<20))
	fs, err := Open(bytes.NewReader(must(os.ReadFile(name))))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := fs.ReadFile("PIECES", 1<<30); err != nil || !bytes.Equal(b, bytesOf(3<<20)) {
		t.Errorf("PIECES: %d bytes, %v", len(b), err)
	}
	if b, err := fs.ReadFile("ALONGN~1.TEX", 1<<30); err != nil || string(b) != "long" {
		t.Errorf("the long name: %q, %v, files %v", b, err, fs.Files())
	}
	if fs.Label != "OTHER" || len(fs.Files()) != 2 {
		t.Errorf("label %q, files %v", fs.Label, fs.Files())
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Volume)
		want   string
	}{
		{"lower case", func(v *Volume) { v.Files[0].Name = "readme.txt" }, "8.3"},
		{"long name", func(v *Volume) { v.Files[0].Name = "BOOTX64XX.EFI" }, "8.3"},
		{"long extension", func(v *Volume) { v.Files[0].Name = "A.JSON" }, "8.3"},
		{"two dots", func(v *Volume) { v.Files[0].Name = "A.B.C" }, "8.3"},
		{"empty part", func(v *Volume) { v.Files[0].Name = "EFI//A" }, "8.3"},
		{"parent", func(v *Volume) { v.Files[0].Name = "../A" }, "8.3"},
		{"twice", func(v *Volume) { v.Files[0].Name = "README.TXT" }, "taken"},
		{"file as folder", func(v *Volume) { v.Files[3].Name = "README.TXT/A" }, "taken"},
		{"too much", func(v *Volume) { v.Files[0].Data = make([]byte, volumeSize) }, "no room"},
		{"large clusters", func(v *Volume) { v.ClusterSize = 4096 }, "FAT32 needs"},
		{"odd clusters", func(v *Volume) { v.ClusterSize = 1536 }, "1536"},
		{"label", func(v *Volume) { v.Label = "TWELVE CHARS" }, "label"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := example()
			c.change(&v)
			if err := Write(make(memory, volumeSize), volumeSize, v); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

// Chains that lead in a circle, away, or to nothing are errors, not endless reads.
func TestBadChains(t *testing.T) {
	good := written(t, example())
	table := reserved * sector
	for _, c := range []struct {
		name    string
		cluster int
		value   uint32
	}{
		{"root in a circle", 2, 2},
		{"root into the void", 2, 0x0ffffff0},
		{"root to nothing", 2, 0},
		{"file too short", 10, eoc},
		{"file in a circle", 10, 9},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := bytes.Clone(good)
			binary.LittleEndian.PutUint32(m[table+4*c.cluster:], c.value)
			if fs, err := Open(bytes.NewReader(m)); err == nil {
				t.Errorf("accepted: %v", fs.Files())
			}
		})
	}
	if _, err := Open(bytes.NewReader(make([]byte, 4096))); err == nil {
		t.Error("zeros are accepted")
	}
}

// Nothing that lies on a stick makes the reader panic or read without end.
func FuzzOpen(f *testing.F) {
	head := written(f, example())
	f.Add([]byte(head[:sector]), []byte(head[reserved*sector:][:64]), []byte(head[1<<20:][:4096]))
	f.Fuzz(func(t *testing.T, boot, table, data []byte) {
		// A sparse disk: the given bytes at the places of boot sector, FAT and directories.
		d := sparse{size: 4 << 20, at: map[int64][]byte{0: boot, reserved * sector: table, 1 << 20: data}}
		fs, err := Open(d)
		if err != nil {
			return
		}
		for _, e := range fs.Files() {
			if b, err := fs.ReadFile(e.Name, 1<<20); err == nil && int64(len(b)) != e.Size {
				t.Errorf("%s: %d bytes of %d", e.Name, len(b), e.Size)
			}
		}
	})
}

type sparse struct {
	size int64
	at   map[int64][]byte
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < 0 || off+int64(len(p)) > s.size {
		return 0, io.EOF
	}
	for o, b := range s.at {
		for i := range p {
			if j := off + int64(i) - o; j >= 0 && j < int64(len(b)) {
				p[i] = b[j]
			}
		}
	}
	return len(p), nil
}

func BenchmarkWrite(b *testing.B) {
	v := example()
	m := make(memory, volumeSize)
	b.SetBytes(int64(len(v.Files[0].Data)))
	b.ReportAllocs()
	for b.Loop() {
		if err := Write(m, volumeSize, v); err != nil {
			b.Fatal(err)
		}
	}
}
