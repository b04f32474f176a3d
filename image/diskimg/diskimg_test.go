package diskimg

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"armarium/image/layout"
)

const testID = "00112233445566778899aabbccddeeff"

func example() Parts {
	return Parts{
		Manifest: layout.Manifest{Version: "1.0", ImageID: testID, KernelRelease: "6.1", CommandLine: layout.CommandLine(testID)},
		Files:    []File{{Name: layout.UKIName, Data: bytes.Repeat([]byte("uki"), 100000)}, {Name: layout.ReadmeName, Data: []byte("read me")}},
	}
}

func build(t *testing.T, p Parts) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.img")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := Build(f, p); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t *testing.T, name string) *Image {
	t.Helper()
	im, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { im.Close() })
	return im
}

func TestBuildAndOpen(t *testing.T) {
	im := open(t, build(t, example()))
	m, err := im.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.Version != "1.0" || m.ImageID != testID || m.Layout != layout.Version || len(m.Files) != 2 || m.Files[0].Name != layout.UKIName {
		t.Errorf("manifest %+v", m)
	}
	if b, err := im.ReadFile(layout.ReadmeName); err != nil || string(b) != "read me" {
		t.Errorf("%q, %v", b, err)
	}
	if err := im.Verify(); err != nil {
		t.Error(err)
	}
	if n := len(im.Files()); n != 3 {
		t.Errorf("%d files, want 3", n)
	}
	for _, p := range im.Table().Partitions {
		if want := layout.UniqueGUID(testID, p.Name); p.Unique.String() != want {
			t.Errorf("partition %s is %s, want %s", p.Name, p.Unique, want)
		}
	}
	for i := range layout.Slots {
		if b, err := im.ReadSlot(i); err != nil || !bytes.Equal(b, make([]byte, layout.SlotSize)) {
			t.Errorf("slot %d of a generic image is not empty, %v", i, err)
		}
	}
}

func TestReproducible(t *testing.T) {
	a, errA := os.ReadFile(build(t, example()))
	swapped := example()
	swapped.Files[0], swapped.Files[1] = swapped.Files[1], swapped.Files[0]
	b, errB := os.ReadFile(build(t, swapped))
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("two builds differ, %v, %v", errA, errB)
	}
	if len(a) != layout.ImageSize {
		t.Errorf("image of %d bytes, want %d", len(a), layout.ImageSize)
	}
}

// Writing a slot changes that slot and nothing else, old longer content included.
func TestWriteSlot(t *testing.T) {
	name := build(t, example())
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	im := open(t, name)
	for _, text := range []string{"long content", "short"} {
		if err := im.WriteSlot(1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]byte, layout.SlotSize)
	copy(want, "short")
	if got, err := im.ReadSlot(1); err != nil || !bytes.Equal(got, want) {
		t.Errorf("slot 1 reads %q…, %v", got[:16], err)
	}
	copy(before[266240*512+2<<20:], want)
	if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, before) {
		t.Errorf("more than slot 1 changed, %v", err)
	}
	if err := im.WriteSlot(2, nil); err == nil {
		t.Error("there is a slot 2")
	}
	if err := im.WriteSlot(0, make([]byte, layout.SlotSize+1)); err == nil {
		t.Error("more than a slot was written")
	}
	if _, err := im.ReadSlot(-1); err == nil {
		t.Error("there is a slot -1")
	}
}

func TestWriteProtected(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root writes to read-only files")
	}
	name := build(t, example())
	if err := os.Chmod(name, 0o400); err != nil {
		t.Fatal(err)
	}
	if err := open(t, name).WriteSlot(0, []byte("x")); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error is %v", err)
	}
}

func TestVerifyFinds(t *testing.T) {
	name := build(t, example())
	im := open(t, name)
	at := im.Files()[0].Offset + 4096*512 // of the kernel image
	if im.Files()[0].Name != layout.UKIName {
		t.Fatalf("first file is %s", im.Files()[0].Name)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("U"), at+5); err != nil {
		t.Fatal(err)
	}
	if err := im.Verify(); err == nil || !strings.Contains(err.Error(), layout.UKIName) {
		t.Errorf("one changed byte: %v", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(other); !errors.Is(err, ErrNoImage) {
		t.Errorf("a file of zeros: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	p := example()
	p.Manifest.ImageID = "short"
	if err := Build(&os.File{}, p); err == nil || !strings.Contains(err.Error(), "image id") {
		t.Errorf("bad image id: %v", err)
	}
}
