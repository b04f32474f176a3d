package rootfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func example(t testing.TB, reverse bool) *Tree {
	t.Helper()
	tree := &Tree{}
	adds := []func() error{
		func() error { return tree.File("/init", 0o755, []byte("program")) },
		func() error { return tree.File("/etc/a/b", 0o644, nil) },
		func() error { return tree.Dir("/tmp", 0o1777) },
		func() error { return tree.Dir("/etc", 0o700) },
		func() error { return tree.Link("/sbin/x", "../init") },
		func() error { return tree.Char("/dev/console", 0o600, 5, 1) },
	}
	if reverse {
		slices.Reverse(adds)
	}
	for _, a := range adds {
		check(t, a())
	}
	return tree
}

func TestArchive(t *testing.T) {
	var a, b, raw bytes.Buffer
	check(t, example(t, false).Compress(&a, zstd.SpeedFastest))
	check(t, example(t, true).Compress(&b, zstd.SpeedFastest))
	if !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Error("the order of adding changes the archive")
	}
	z, err := zstd.NewReader(&a, zstd.WithDecoderMaxWindow(Window))
	check(t, err)
	defer z.Close()
	_, err = io.Copy(&raw, z)
	check(t, err)
	var names []string
	modes := map[string]uint64{}
	check(t, cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(raw.Bytes())), func(r cpio.Record) error {
		names = append(names, r.Name)
		modes[r.Name] = r.Mode
		if r.MTime != 0 || r.UID != 0 || r.GID != 0 || r.Ino != uint64(len(names)) {
			t.Errorf("%s: time %d, owner %d:%d, inode %d", r.Name, r.MTime, r.UID, r.GID, r.Ino)
		}
		if r.Name == "dev/console" && (r.Rmajor != 5 || r.Rminor != 1) {
			t.Errorf("console is %d:%d", r.Rmajor, r.Rminor)
		}
		return nil
	}))
	if want := []string{"dev", "dev/console", "etc", "etc/a", "etc/a/b", "init", "sbin", "sbin/x", "tmp"}; !slices.Equal(names, want) {
		t.Errorf("names %v, want %v", names, want)
	}
	for name, want := range map[string]uint64{"dev": 0o40755, "dev/console": 0o20600, "etc": 0o40700, "init": 0o100755, "sbin/x": 0o120777, "tmp": 0o41777} {
		if modes[name] != want {
			t.Errorf("%s has mode %o, want %o", name, modes[name], want)
		}
	}
}

func TestTreeRefuses(t *testing.T) {
	tree := example(t, false)
	for _, name := range []string{"", "/", "relative", "/a/../b", "/a/", "/init", "/init/below", "/etc"} {
		if err := tree.File(name, 0o644, nil); err == nil {
			t.Errorf("file %q is accepted", name)
		}
	}
	if err := tree.Dir("/init", 0o755); err == nil {
		t.Error("a folder in the place of a file is accepted")
	}
}

func TestSum(t *testing.T) {
	base := example(t, false).Sum()
	if example(t, true).Sum() != base {
		t.Error("the order of adding changes the sum")
	}
	for name, change := range map[string]func(*Tree) error{
		"content": func(tr *Tree) error { return tr.File("/x", 0o644, nil) },
		"mode":    func(tr *Tree) error { return tr.Dir("/tmp", 0o777) },
	} {
		tr := example(t, false)
		check(t, change(tr))
		if tr.Sum() == base {
			t.Errorf("a change of %s does not change the sum", name)
		}
	}
}

// kernel makes the tables and files of a small kernel.
func kernel(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1-test")
	for name, text := range map[string]string{
		"modules.dep": "kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz\nkernel/fs/jbd2.ko.xz:\n" +
			"kernel/usb/usb-storage.ko.xz: kernel/scsi/scsi_mod.ko.xz kernel/usb/core.ko.xz\n" +
			"kernel/usb/core.ko.xz:\nkernel/scsi/scsi_mod.ko.xz:\n" +
			"kernel/crypto/crc32c_generic.ko.xz:\nkernel/crypto/crc32c-intel.ko.xz:\nkernel/net/other.ko.xz:\n",
		"modules.softdep": "# comment\nsoftdep ext4 pre: crypto-crc32c post: other\nsoftdep jbd2 pre: nowhere\n",
		"modules.alias": "# comment\nalias crypto-crc32c crc32c_intel\nalias crypto-crc32c crc32c_generic\n" +
			"alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\nalias of:N*T*Ca,b c other\nalias fs-ext4 ext4\n",
		"modules.builtin":                    "kernel/net/af_packet.ko\n",
		"kernel/fs/ext4.ko.xz":               "ext4",
		"kernel/fs/jbd2.ko.xz":               "jbd2",
		"kernel/usb/usb-storage.ko.xz":       "usb-storage",
		"kernel/usb/core.ko.xz":              "core",
		"kernel/scsi/scsi_mod.ko.xz":         "scsi_mod",
		"kernel/crypto/crc32c_generic.ko.xz": "generic",
	} {
		p := filepath.Join(dir, name)
		check(t, os.MkdirAll(filepath.Dir(p), 0o777))
		check(t, os.WriteFile(p, []byte(text), 0o666))
	}
	return root
}

func TestModules(t *testing.T) {
	m, err := OpenModules(kernel(t))
	check(t, err)
	if m.Release != "6.1-test" {
		t.Errorf("release %s", m.Release)
	}
	names, err := m.Select([]string{"ext4", "usb-storage", "af_packet"})
	check(t, err)
	if want := []string{"core", "crc32c_generic", "ext4", "jbd2", "scsi_mod", "usb_storage"}; !slices.Equal(names, want) {
		t.Errorf("chosen %v, want %v", names, want)
	}
	tree := &Tree{}
	check(t, m.AddTo(tree, names))
	const base = "/lib/modules/6.1-test/"
	// Dependencies are loaded from the right; soft ones are among them.
	for name, want := range map[string]string{
		"modules.dep": "kernel/crypto/crc32c_generic.ko.xz:\n" +
			"kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz kernel/crypto/crc32c_generic.ko.xz\n" +
			"kernel/fs/jbd2.ko.xz:\nkernel/scsi/scsi_mod.ko.xz:\nkernel/usb/core.ko.xz:\n" +
			"kernel/usb/usb-storage.ko.xz: kernel/scsi/scsi_mod.ko.xz kernel/usb/core.ko.xz\n",
		"modules.alias": "alias crypto-crc32c crc32c_generic\nalias fs-ext4 ext4\n" +
			"alias usb:v*p*d*dc*dsc*dp*ic08isc06ip50in* usb_storage\n",
		"modules.builtin":              "kernel/net/af_packet.ko\n",
		"kernel/usb/usb-storage.ko.xz": "usb-storage",
	} {
		if got := string(tree.nodes[base+name].data); got != want {
			t.Errorf("%s is\n%s\nwant\n%s", name, got, want)
		}
	}
	if tree.Has(base + "kernel/net/other.ko.xz") {
		t.Error("a module that nobody needs is packed")
	}
}

func TestModulesMissing(t *testing.T) {
	m, err := OpenModules(kernel(t))
	check(t, err)
	names, err := m.Select([]string{"zeta", "ext4", "alpha"})
	var missing *MissingError
	if !errors.As(err, &missing) || !slices.Equal(missing.Modules, []string{"alpha", "zeta"}) {
		t.Errorf("error is %v, want it to name alpha and zeta", err)
	}
	if !slices.Contains(names, "ext4") {
		t.Errorf("what is there is not chosen: %v", names)
	}
	if _, err := OpenModules(t.TempDir()); err == nil {
		t.Error("a folder without kernel is accepted")
	}
	root := kernel(t)
	check(t, os.WriteFile(filepath.Join(root, "lib/modules/6.1-test/modules.dep"), []byte("../../etc/passwd:\n"), 0o666))
	if _, err := OpenModules(root); err == nil || !strings.Contains(err.Error(), "modules.dep:1") {
		t.Errorf("a path that leads out: %v", err)
	}
}

func TestModuleCircle(t *testing.T) {
	root := kernel(t)
	check(t, os.WriteFile(filepath.Join(root, "lib/modules/6.1-test/modules.dep"),
		[]byte("kernel/fs/ext4.ko.xz: kernel/fs/jbd2.ko.xz\nkernel/fs/jbd2.ko.xz: kernel/fs/ext4.ko.xz\nkernel/crypto/crc32c_generic.ko.xz:\n"), 0o666))
	m, err := OpenModules(root)
	check(t, err)
	names, err := m.Select([]string{"ext4"})
	check(t, err)
	if err := m.AddTo(&Tree{}, names); err == nil || !strings.Contains(err.Error(), "need each other") {
		t.Errorf("error is %v", err)
	}
}

// program makes a small ELF file; interp "" makes it static.
func program(machine elf.Machine, interp string) []byte {
	le := binary.LittleEndian
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], uint16(elf.ET_EXEC))
	le.PutUint16(b[18:], uint16(machine))
	le.PutUint32(b[20:], 1)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[52:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[58:], 64)
	if interp != "" {
		le.PutUint16(b[56:], 1)
		ph := b[64:]
		le.PutUint32(ph, uint32(elf.PT_INTERP))
		le.PutUint64(ph[8:], uint64(len(b)))
		le.PutUint64(ph[32:], uint64(len(interp)+1))
		b = append(append(b, interp...), 0)
	}
	return b
}

func TestStatic(t *testing.T) {
	if err := Static(program(elf.EM_X86_64, "")); err != nil {
		t.Error(err)
	}
	if err := Static(program(elf.EM_X86_64, "/lib64/ld.so")); err == nil || !strings.Contains(err.Error(), "static") {
		t.Errorf("a dynamic program: %v", err)
	}
	if err := Static(program(elf.EM_AARCH64, "")); err == nil {
		t.Error("a program of another machine is accepted")
	}
	if err := Static([]byte("#!/bin/sh")); err == nil {
		t.Error("a script is accepted")
	}
}

func TestPackages(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	put := func(root, name string, data []byte) {
		t.Helper()
		p := filepath.Join(root, name)
		check(t, os.MkdirAll(filepath.Dir(p), 0o777))
		check(t, os.WriteFile(p, data, 0o777))
	}
	put(a, "sbin/tool", program(elf.EM_X86_64, "/lib64/ld.so"))
	put(b, "usr/lib/real-ld.so", program(elf.EM_X86_64, ""))
	check(t, os.MkdirAll(filepath.Join(b, "lib64"), 0o777))
	check(t, os.Symlink("../usr/lib/real-ld.so", filepath.Join(b, "lib64/ld.so")))
	check(t, os.Symlink("/etc/passwd", filepath.Join(b, "escape")))
	check(t, os.Symlink("circle", filepath.Join(b, "circle")))
	ps := Packages{a, b}

	tree := &Tree{}
	check(t, ps.AddProgram(tree, "/sbin/tool"))
	check(t, ps.AddProgram(tree, "/sbin/tool")) // there already
	if !tree.Has("/lib64/ld.so") || tree.nodes["/lib64/ld.so"].mode != typeFile|0o755 {
		t.Errorf("names %v", tree.Names())
	}
	if _, err := ps.Read("/usr/sbin/tool"); err != nil {
		t.Errorf("not found below /usr: %v", err)
	}
	for _, name := range []string{"/escape", "/circle", "/none", "/../../etc/passwd"} {
		if _, err := ps.Read(name); err == nil {
			t.Errorf("%s is read", name)
		}
	}
	if g, err := ps.Glob("/sbin/*"); err != nil || !slices.Equal(g, []string{"/sbin/tool"}) {
		t.Errorf("found %v, %v", g, err)
	}
}
