package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"armarium/image/diskimg"
	"armarium/image/layout"
	"armarium/image/uki"
	"armarium/initramfs/rootfs"
)

const testID = "00112233445566778899aabbccddeeff"

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stub makes a PE32+ program without sections and with room for some.
func stub() []byte {
	le := binary.LittleEndian
	b := make([]byte, 1024)
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00\x64\x86")
	le.PutUint16(b[84:], 240)
	le.PutUint16(b[88:], 0x20b)
	le.PutUint32(b[88+32:], 4096)
	le.PutUint32(b[88+36:], 512)
	le.PutUint32(b[88+60:], 1024)
	return b
}

func inputs(t *testing.T, info layout.Info) (dir string, args []string) {
	t.Helper()
	dir = t.TempDir()
	var tree rootfs.Tree
	text, err := info.Encode()
	check(t, err)
	check(t, tree.File(layout.InfoPath, 0o644, text))
	var z bytes.Buffer
	check(t, tree.Compress(&z, zstd.SpeedFastest))
	check(t, os.WriteFile(filepath.Join(dir, "vmlinuz"), bytes.Repeat([]byte("kernel"), 1000), 0o666))
	check(t, os.WriteFile(filepath.Join(dir, "stub.efi"), stub(), 0o666))
	check(t, os.WriteFile(filepath.Join(dir, "initramfs"), z.Bytes(), 0o666))
	return dir, []string{"-boot", dir, "-initramfs", filepath.Join(dir, "initramfs")}
}

func TestImage(t *testing.T) {
	info := layout.Info{Layout: layout.Version, Version: "1.2", ImageID: testID, KernelRelease: "6.1-test", CommandLine: layout.CommandLine(testID), Locked: true}
	dir, args := inputs(t, info)
	var sums [2]string
	for i := range sums {
		name := filepath.Join(dir, fmt.Sprint("img", i))
		check(t, run(append(args, "-o", name, "-z", name+".zst"), io.Discard))
		b, err := os.ReadFile(name)
		check(t, err)
		sums[i] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	if sums[0] != sums[1] {
		t.Error("two builds differ")
	}
	im, err := diskimg.Open(filepath.Join(dir, "img0"))
	check(t, err)
	defer im.Close()
	check(t, im.Verify())
	m, err := im.Manifest()
	check(t, err)
	if m.ImageID != testID || m.Version != "1.2" || m.CommandLine != info.CommandLine {
		t.Errorf("manifest %+v", m)
	}
	b, err := im.ReadFile(layout.UKIName)
	check(t, err)
	found, err := uki.Parse(b)
	check(t, err)
	content := map[string]string{}
	for _, s := range found {
		content[s.Name] = string(b[s.Offset : s.Offset+s.Size])
	}
	if content[".cmdline"] != info.CommandLine || content[".uname"] != "6.1-test" || content[".linux"] != strings.Repeat("kernel", 1000) {
		t.Errorf("sections %q", content)
	}
	if st, err := os.Stat(filepath.Join(dir, "img0.zst")); err != nil || st.Size() > 1<<20 {
		t.Errorf("compressed image: %v, %v", st, err)
	}
}

func TestImageRefuses(t *testing.T) {
	t.Run("budget", func(t *testing.T) {
		if _, err := parts(layout.Info{ImageID: testID, CommandLine: "x", KernelRelease: "6"}, stub(), make([]byte, maxUKI), []byte("i")); err == nil ||
			!strings.Contains(err.Error(), "budget") {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no information", func(t *testing.T) {
		var tree rootfs.Tree
		check(t, tree.File("/init", 0o755, []byte("x")))
		var z bytes.Buffer
		check(t, tree.Compress(&z, zstd.SpeedFastest))
		if _, err := readInfo(z.Bytes()); err == nil || !strings.Contains(err.Error(), layout.InfoPath) {
			t.Errorf("error is %v", err)
		}
	})
	t.Run("no archive", func(t *testing.T) {
		if _, err := readInfo([]byte("gzip it was")); err == nil {
			t.Error("accepted")
		}
	})
	t.Run("missing files", func(t *testing.T) {
		if err := run([]string{"-boot", t.TempDir()}, io.Discard); err == nil {
			t.Error("accepted")
		}
	})
}
