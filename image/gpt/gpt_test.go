package gpt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const diskSize = 16 << 20

func guid(t testing.TB, s string) GUID {
	t.Helper()
	g, err := ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func example(t testing.TB, sectorSize int) *Table {
	first := uint64(1 << 20 / sectorSize)
	return &Table{
		Disk:       guid(t, "c8b6cd0d-bf17-8b61-904f-63e58c0527b4"),
		SectorSize: sectorSize,
		Active:     true,
		Partitions: []Partition{
			{Number: 1, Type: guid(t, "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), Unique: guid(t, "00000000-0000-0000-0000-000000000001"),
				First: first, Last: 2*first - 1, Name: "system"},
			{Number: 3, Type: guid(t, "0fc63daf-8483-4772-8e79-3d69d8477de4"), Unique: guid(t, "00000000-0000-0000-0000-000000000002"),
				First: 2 * first, Last: 3*first - 1, Name: "größe", Attributes: 1 << 60},
		},
	}
}

// memory is a disk in memory.
type memory []byte

func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(m)) {
		return 0, io.ErrShortWrite
	}
	return copy(m[off:], p), nil
}

func written(t testing.TB, tab *Table) memory {
	t.Helper()
	m := make(memory, diskSize)
	if err := Write(m, diskSize, tab); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestRoundTrip(t *testing.T) {
	for _, ss := range []int{512, 4096} {
		t.Run(fmt.Sprint(ss), func(t *testing.T) {
			want := example(t, ss)
			m := written(t, want)
			got, err := Read(bytes.NewReader(m), diskSize)
			if err != nil {
				t.Fatal(err)
			}
			want.FirstUsable, want.LastUsable = Usable(diskSize, ss)
			want.Active = false // not read back
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v\nwant %+v", got, want)
			}
			p, ok := got.Find(guid(t, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"))
			if !ok || got.Offset(p) != 2<<20 || got.Size(p) != 1<<20 {
				t.Errorf("found %+v, %v", p, ok)
			}
		})
	}
}

func TestBackup(t *testing.T) {
	m := written(t, example(t, 512))
	m[512+20]++ // reserved field: only the checksum notices
	got, err := Read(bytes.NewReader(m), diskSize)
	if err != nil || !got.FromBackup || len(got.Partitions) != 2 {
		t.Fatalf("got %+v, %v, want the backup", got, err)
	}
	m[diskSize-512+20]++
	if _, err := Read(bytes.NewReader(m), diskSize); !errors.Is(err, ErrNoTable) || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("both spoiled: %v", err)
	}
}

// The backup of an image stays at the end of the image on a larger stick.
func TestLargerDisk(t *testing.T) {
	m := append(written(t, example(t, 512)), make([]byte, 1<<20)...)
	if got, err := Read(bytes.NewReader(m), int64(len(m))); err != nil || got.FromBackup {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		disk []byte
	}{
		{"empty", nil},
		{"tiny", make([]byte, 600)},
		{"zeros", make([]byte, 1<<20)},
	} {
		if _, err := Read(bytes.NewReader(c.disk), int64(len(c.disk))); !errors.Is(err, ErrNoTable) {
			t.Errorf("%s: %v, want ErrNoTable", c.name, err)
		}
	}
	broken := errors.New("broken cable")
	if _, err := Read(failing{broken}, diskSize); !errors.Is(err, broken) || errors.Is(err, ErrNoTable) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func TestWriteRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Table)
		want   string
	}{
		{"overlap", func(t *Table) { t.Partitions[1].First-- }, "overlap"},
		{"over the table", func(t *Table) { t.Partitions[0].First = 33 }, "outside"},
		{"over the backup", func(t *Table) { t.Partitions[1].Last = diskSize/512 - 33 }, "outside"},
		{"backwards", func(t *Table) { t.Partitions[0].Last = 2047 }, "outside"},
		{"number twice", func(t *Table) { t.Partitions[1].Number = 1 }, "taken"},
		{"number too high", func(t *Table) { t.Partitions[1].Number = 129 }, "129"},
		{"no type", func(t *Table) { t.Partitions[1].Type = GUID{} }, "no type"},
		{"long name", func(t *Table) { t.Partitions[0].Name = strings.Repeat("x", 37) }, "36"},
		{"sector size", func(t *Table) { t.SectorSize = 1024 }, "1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tab := example(t, 512)
			c.change(tab)
			m := make(memory, diskSize)
			if err := Write(m, diskSize, tab); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if !bytes.Equal(m, make(memory, diskSize)) {
				t.Error("something was written")
			}
		})
	}
}

// Bytes of a BIOS loader in front of the partition table stay.
func TestLoaderStays(t *testing.T) {
	m := make(memory, diskSize)
	for i := range m[:440] {
		m[i] = 0xaa
	}
	if err := Write(m, diskSize, example(t, 512)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m[:440], bytes.Repeat([]byte{0xaa}, 440)) {
		t.Error("the first 440 bytes changed")
	}
}

// An independent reader agrees.
func TestSgdisk(t *testing.T) {
	sgdisk, err := exec.LookPath("sgdisk")
	if err != nil {
		if sgdisk, err = exec.LookPath("/usr/sbin/sgdisk"); err != nil {
			t.Fatal("sgdisk is missing: run make setup")
		}
	}
	name := filepath.Join(t.TempDir(), "disk")
	tab := example(t, 512)
	tab.Active = false // sgdisk warns about it
	if err := os.WriteFile(name, written(t, tab), 0o666); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(sgdisk, "-v", "-p", name).CombinedOutput()
	for _, want := range []string{"No problems found", "C8B6CD0D-BF17-8B61-904F-63E58C0527B4", "1024.0 KiB  EF00  system", "8300  größe"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Fatalf("%v, want %q in\n%s", err, want, out)
		}
	}
}

func TestGUID(t *testing.T) {
	g := guid(t, "00112233-4455-6677-8899-AABBCCDDEEFF")
	if want := (GUID{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}); g != want {
		t.Errorf("bytes %x, want %x", g, want)
	}
	if s := g.String(); s != "00112233-4455-6677-8899-aabbccddeeff" {
		t.Errorf("text %s", s)
	}
	for _, bad := range []string{"", "00112233445566778899aabbccddeeff", "0011223-34455-6677-8899-aabbccddeeff", "x0112233-4455-6677-8899-aabbccddeeff"} {
		if _, err := ParseGUID(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

// What is read can be written again and is the same.
func FuzzRead(f *testing.F) {
	m := make(memory, 128<<10)
	tab := &Table{Partitions: []Partition{{Type: GUID{1}, First: 40, Last: 50, Name: "a"}}}
	if err := Write(m, int64(len(m)), tab); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(m))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := Read(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, p := range got.Partitions {
			if got.Offset(p) < 0 || got.Offset(p)+got.Size(p) > int64(len(b)) {
				t.Errorf("partition %+v lies outside of %d bytes", p, len(b))
			}
		}
	})
}
