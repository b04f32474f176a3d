package media

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"armarium/image/gpt"
	"armarium/image/layout"
)

const thisImage = "00112233445566778899aabbccddeeff"

func TestDecide(t *testing.T) {
	stick := func(name, image string, sealed bool) Stick {
		s := Stick{Name: name, GUIDs: []string{layout.UniqueGUID(image, "disk"), layout.UniqueGUID(image, "system")}}
		if sealed {
			s.Slots[1] = []byte(layout.SlotMagic)
		}
		return s
	}
	const other = "ffeeddccbbaa99887766554433221100"
	system := layout.UniqueGUID(thisImage, "system")
	for _, c := range []struct {
		name   string
		sticks []Stick
		loader string
		want   string
		err    error
	}{
		{"nothing", nil, "", "", ErrNoStick},
		{"one", []Stick{stick("a", thisImage, false)}, "", "a", nil},
		{"other image", []Stick{stick("a", other, true)}, "", "", ErrOtherImage},
		{"by image", []Stick{stick("a", other, true), stick("b", thisImage, false)}, "", "b", nil},
		{"by loader", []Stick{stick("a", other, true), stick("b", thisImage, false)}, strings.ToUpper(system), "b", nil},
		{"loader's not there yet", []Stick{stick("a", other, true)}, system, "", ErrNoStick},
		{"sealed first", []Stick{stick("a", thisImage, false), stick("b", thisImage, true)}, system, "b", nil},
		{"two sealed", []Stick{stick("a", thisImage, true), stick("b", thisImage, true)}, system, "", ErrAmbiguous},
		{"two unsealed", []Stick{stick("a", thisImage, false), stick("b", thisImage, false)}, "", "", ErrAmbiguous},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := Decide(c.sticks, c.loader, thisImage)
			if !errors.Is(err, c.err) || (s != nil) != (c.want != "") || (s != nil && s.Name != c.want) {
				t.Errorf("got %v, %v", s, err)
			}
		})
	}
}

func TestCandidates(t *testing.T) {
	root := t.TempDir()
	usb := filepath.Join(root, "sys/devices/pci0/usb1/1-1")
	dir := filepath.Join(usb, "1-1:1.0/host0/block/sda")
	for name, text := range map[string]string{
		"size": "276480", "ro": "1", "sda3/partition": "3", "../../../../idVendor": "abcd", "../../../../authorized": "1", "../../../authorized": "1",
	} {
		p := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	os.MkdirAll(filepath.Join(root, "sys/block"), 0o755)
	os.Symlink(dir, filepath.Join(root, "sys/block/sda"))
	os.MkdirAll(filepath.Join(root, "dev"), 0o755)
	f, err := os.Create(filepath.Join(root, "dev/sda"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Truncate(layout.ImageSize)
	tab := &gpt.Table{Disk: guid(t, layout.UniqueGUID(thisImage, "disk"))}
	for _, p := range layout.Partitions() {
		tab.Partitions = append(tab.Partitions, gpt.Partition{Number: p.Number, Type: guid(t, p.Type),
			Unique: guid(t, layout.UniqueGUID(thisImage, p.Name)), First: uint64(p.First), Last: uint64(p.First + p.Sectors - 1), Name: p.Name})
	}
	if err := gpt.Write(f, layout.ImageSize, tab); err != nil {
		t.Fatal(err)
	}
	config := layout.Partitions()[layout.Config-1]
	f.WriteAt([]byte("second"), config.Offset()+layout.SlotSize)

	got, err := Candidates(filepath.Join(root, "sys"), filepath.Join(root, "dev"))
	if err != nil || len(got) != 1 {
		t.Fatalf("got %d candidates, %v", len(got), err)
	}
	s := got[0]
	if s.Complete {
		t.Error("a stick counts as complete with one of three partitions")
	}
	if s.USB != usb || !s.ReadOnly || len(s.Parts) != 1 || filepath.Base(s.Parts[0]) != "sda3" || s.Sealed() {
		t.Errorf("got %+v", s)
	}
	if !bytes.HasPrefix(s.Slots[1], []byte("second\x00")) || len(s.Slots[0]) != layout.SlotSize {
		t.Error("slots were not read from their places")
	}
	if _, err := Decide(got, "", thisImage); err != nil {
		t.Error(err)
	}

	// The other partitions come, first in sysfs, then their nodes.
	for _, n := range []string{"1", "2"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sda"+n), 0o755), os.WriteFile(filepath.Join(dir, "sda"+n, "partition"), []byte(n), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range []string{"", "sda1", "sda2", "sda3"} {
		if n != "" {
			if err := os.WriteFile(filepath.Join(root, "dev", n), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := Candidates(filepath.Join(root, "sys"), filepath.Join(root, "dev"))
		if err != nil || len(got) != 1 || got[0].Complete != (i == 3) {
			t.Errorf("with %d nodes: %+v, %v", i, got, err)
		}
	}
}

func guid(t *testing.T, s string) gpt.GUID {
	t.Helper()
	g, err := gpt.ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestParseLoaderGUID(t *testing.T) {
	want := layout.UniqueGUID(thisImage, "system")
	b := []byte{6, 0, 0, 0}
	for _, u := range utf16.Encode([]rune(strings.ToUpper(want) + "\x00")) {
		b = append(b, byte(u), byte(u>>8))
	}
	if got := ParseLoaderGUID(b); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, b := range [][]byte{nil, {1, 2}, []byte("\x06\x00\x00\x00x\x00"), make([]byte, 5000)} {
		if got := ParseLoaderGUID(b); got != "" {
			t.Errorf("%q: got %q", b, got)
		}
	}
}

func TestTryWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	text := bytes.Repeat([]byte("x"), 1024)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tryWrite(path); err == nil || !strings.Contains(err.Error(), "accepted a write") {
		t.Errorf("got %v", err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, text) {
		t.Error("trying to write changed the bytes")
	}
}
