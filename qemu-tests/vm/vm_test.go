package vm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"armarium/initramfs/rootfs"
)

// root is the folder of the module.
const root = "../.."

// goTool runs the go command at the root of the module.
func goTool(t testing.TB, env []string, args ...string) {
	t.Helper()
	c := exec.Command("go", args...)
	c.Dir = root
	c.Env = append(os.Environ(), env...)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// images makes an initramfs and a stick of a first process from testdata, and returns the
// folder: initramfs.cpio.zst, boot/vmlinuz, stick.img, init.
func images(t testing.TB, program string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts machines")
	}
	dir := t.TempDir()
	initramfs, boot := filepath.Join(dir, "initramfs.cpio.zst"), filepath.Join(dir, "boot")
	goTool(t, []string{"CGO_ENABLED=0"}, "build", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(dir, "init"),
		"./qemu-tests/vm/testdata/"+program)
	goTool(t, nil, "run", "./initramfs", "-kernel", "any", "-init", filepath.Join(dir, "init"), "-daemon", "",
		"-o", initramfs, "-boot", boot)
	goTool(t, nil, "run", "./image", "-boot", boot, "-initramfs", initramfs, "-o", filepath.Join(dir, "stick.img"))
	return dir
}

func start(t testing.TB, c Config) *Machine {
	t.Helper()
	c.Dir = t.TempDir()
	m, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// patience bounds every wait of a test: an emulated machine on a busy host.
func patience(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func expect(t testing.TB, m *Machine, pattern string) Match {
	t.Helper()
	got, err := m.Expect(patience(t), pattern)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// bare is an initramfs with nothing but a first process.
func bare(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "init"))
	if err != nil {
		t.Fatal(err)
	}
	var tree rootfs.Tree
	if err := errors.Join(tree.File("/init", 0o755, b), tree.Char("/dev/console", 0o600, 5, 1)); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	if err := tree.Compress(&z, zstd.SpeedFastest); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "bare.cpio.zst")
	if err := os.WriteFile(name, z.Bytes(), 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestDirectBoot(t *testing.T) {
	dir := images(t, "hello")
	m := start(t, Config{
		Kernel: filepath.Join(dir, "boot/vmlinuz"), Initrd: bare(t, dir), Append: "console=ttyS0 quiet panic=-1",
		Forward: []int{8081, 9729},
	})
	hello := expect(t, m, `hello from process (\d+)\n`)
	if hello.Groups[0] != "1" {
		t.Errorf("first process has number %s", hello.Groups[0])
	}
	t.Logf("kernel and hello: %v", hello.At)

	if err := m.Type("word, with comma\n"); err != nil {
		t.Fatal(err)
	}
	expect(t, m, `heard "word, with comma"`)
	a, err := m.Port(patience(t), 8081)
	if err != nil {
		t.Fatal(err)
	}
	b, err := m.Port(patience(t), 9729)
	if err != nil || a == b || a == 0 {
		t.Fatalf("ports %d and %d, %v", a, b, err)
	}
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(a)))
	if err != nil {
		t.Errorf("forwarded port: %v", err)
	} else {
		c.Close()
	}
	if _, err := m.Port(patience(t), 80); err == nil {
		t.Error("port 80 is told, but was not asked for")
	}

	if err := m.Type("off\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(patience(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Expect(patience(t), "never said"); !errors.Is(err, ErrOff) || !strings.Contains(err.Error(), "bye") {
		t.Errorf("expecting from a machine that is off: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(m.dir, "serial.log")); err != nil || !bytes.Contains(b, []byte("] hello from process 1\n")) {
		t.Errorf("serial.log: %v, %q", err, b)
	}
}

func TestStickByUEFI(t *testing.T) {
	dir := images(t, "hello")
	stick := filepath.Join(dir, "stick.img")
	before := sum(t, stick)
	m := start(t, Config{Image: stick, Writable: true})
	hello := expect(t, m, `hello from process 1`)
	t.Logf("stick by UEFI, hello: %v", hello.At)

	png := filepath.Join(dir, "screen.png")
	if err := m.Screendump(patience(t), png); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(png); err != nil || !bytes.HasPrefix(b, []byte("\x89PNG")) {
		t.Errorf("screen dump: %v", err)
	}
	if err := m.Unplug(patience(t), "stick"); err != nil {
		t.Error(err)
	}
	extra := filepath.Join(dir, "extra.img")
	if err := NewDisk(extra, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := m.Plug(patience(t), Disk{ID: "extra", Path: extra, Bus: "usb", Serial: "X1"}); err != nil {
		t.Error(err)
	}
	if err := m.Type("still there\n"); err != nil {
		t.Fatal(err)
	}
	expect(t, m, `heard "still there"`)
	if err := m.CutPower(); err != nil {
		t.Fatal(err)
	}
	if err := m.Wait(patience(t)); err == nil {
		t.Error("a killed machine went off by itself")
	}
	if sum(t, stick) != before {
		t.Error("a boot changed the stick")
	}
}

// What the initramfs holds works: modules for stick and disks, tools with their libraries.
func TestProbe(t *testing.T) {
	dir := images(t, "probe")
	disk := filepath.Join(dir, "disk.img")
	if err := NewDisk(disk, 1<<30); err != nil {
		t.Fatal(err)
	}
	m := start(t, Config{Image: filepath.Join(dir, "stick.img"), Disks: []Disk{{Path: disk, Serial: "D0"}}})
	expect(t, m, `loaded \d+ modules`)
	stick := expect(t, m, `disk sd[a-z] size (\d+) ro (\d)`)
	if stick.Groups[0] != "276480" || stick.Groups[1] != "1" {
		t.Errorf("stick: %q, want 276480 sectors, read-only", stick.Text)
	}
	t.Logf("stick found: %v", stick.At)
	expect(t, m, `disk vda size 2097152 ro 0`)
	fs := expect(t, m, `ext4 made, checked and mounted|probe failed: .*`)
	if strings.HasPrefix(fs.Text, "probe failed") {
		t.Fatal(fs.Text)
	}
	all := expect(t, m, `all (\d+) of (\d+) modules loaded`)
	t.Logf("%s: %v", all.Text, all.At)
	if err := m.Wait(patience(t)); err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(m.Serial(), "\n") {
		if strings.HasPrefix(line, "module ") {
			t.Log(line)
		}
	}
}

func sum(t testing.TB, name string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

func TestMissingParts(t *testing.T) {
	t.Run("emulator", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		_, err := Start(t.Context(), Config{Dir: t.TempDir()})
		if err == nil || !strings.Contains(err.Error(), "make setup") {
			t.Errorf("without QEMU: %v, want a hint to make setup", err)
		}
	})
	t.Run("firmware", func(t *testing.T) {
		_, err := Config{Dir: t.TempDir(), Firmware: "f", Variables: "/nonexistent"}.arguments(t.Context())
		if err == nil {
			t.Error("missing firmware variables are no error")
		}
	})
	t.Run("complaint", func(t *testing.T) {
		_, err := Start(t.Context(), Config{Dir: t.TempDir(), BIOS: true, Extra: []string{"-no-such-option"}})
		if err == nil || !strings.Contains(err.Error(), "no-such-option") {
			t.Errorf("error is %v, want what QEMU said", err)
		}
	})
}

// BenchmarkHello is the floor of every boot time: kernel and a first process that prints.
func BenchmarkHello(b *testing.B) {
	dir := images(b, "hello")
	for _, c := range []struct {
		name   string
		config Config
	}{
		{"direct", Config{Kernel: filepath.Join(dir, "boot/vmlinuz"), Initrd: bare(b, dir), Append: "console=ttyS0 quiet"}},
		{"stick", Config{Image: filepath.Join(dir, "stick.img")}},
	} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				m := start(b, c.config)
				expect(b, m, `hello from process 1`)
				if err := m.CutPower(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
