// Probe is a first process that tries what an image holds: it loads modules for the
// hardware it finds, lists the disks, makes, checks and mounts a file system on the
// virtio disk, and turns the machine off. It prints one line for each on the serial console.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	err := run()
	if err != nil {
		fmt.Println("probe failed:", err)
	}
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for _, m := range [][2]string{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/run"}} {
		if err := unix.Mount(m[0], m[1], m[0], 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m[1], err)
		}
	}
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	os.Stdout, os.Stderr = tty, tty
	l, err := open()
	if err != nil {
		return err
	}
	// Until the stick is there: new devices appear behind loaded drivers.
	for start := time.Now(); time.Since(start) < 50*time.Second; time.Sleep(50 * time.Millisecond) {
		l.coldPlug()
		if disks, _ := filepath.Glob("/sys/block/sd*"); len(disks) > 0 {
			break
		}
	}
	fmt.Println("loaded", len(l.loaded), "modules")
	disks, err := filepath.Glob("/sys/block/*")
	if err != nil {
		return err
	}
	for _, d := range disks {
		fmt.Println("disk", filepath.Base(d), "size", read(d+"/size"), "ro", read(d+"/ro"))
	}
	if err := l.load("ext4"); err != nil {
		return fmt.Errorf("load ext4: %w", err)
	}
	for _, c := range [][]string{
		{"/sbin/mke2fs", "-q", "-t", "ext4", "-m", "0", "-L", "cache0", "-O", "64bit,metadata_csum", "/dev/vda"},
		{"/sbin/tune2fs", "-l", "/dev/vda"},
		{"/sbin/e2fsck", "-p", "-f", "/dev/vda"},
	} {
		if b, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", c[0], err, b)
		}
	}
	if err := os.Mkdir("/run/cache0", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", "/run/cache0", "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount ext4: %w", err)
	}
	fmt.Println("ext4 made, checked and mounted")
	if err := unix.Unmount("/run/cache0", 0); err != nil {
		return err
	}
	if err := l.load("xfs"); err != nil {
		return fmt.Errorf("load xfs: %w", err)
	}
	for _, name := range l.names() {
		if err := l.load(name); err != nil && !errors.Is(err, unix.ENODEV) {
			fmt.Println("module", name, err)
		}
	}
	fmt.Println("all", len(l.loaded), "of", len(l.deps), "modules loaded")
	return nil
}

func read(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// loader loads modules by the tables of the image.
type loader struct {
	dir    string
	path   map[string]string
	deps   map[string][]string
	alias  [][2]string
	loaded map[string]bool
	order  []string
}

func open() (*loader, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, err
	}
	l := &loader{dir: "/lib/modules/" + unix.ByteSliceToString(u.Release[:]), path: map[string]string{}, deps: map[string][]string{}, loaded: map[string]bool{}}
	err := lines(l.dir+"/modules.dep", func(w []string) {
		p := strings.TrimSuffix(w[0], ":")
		n := name(p)
		l.order = append(l.order, n)
		l.path[n], l.deps[n] = p, nil
		for i := len(w) - 1; i > 0; i-- {
			l.deps[n] = append(l.deps[n], name(w[i]))
		}
	})
	if err != nil {
		return nil, err
	}
	return l, lines(l.dir+"/modules.alias", func(w []string) {
		l.alias = append(l.alias, [2]string{w[1], w[2]})
	})
}

func (l *loader) names() []string { return l.order }

func lines(file string, each func([]string)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if w := strings.Fields(s.Text()); len(w) > 0 && w[0][0] != '#' {
			each(w)
		}
	}
	return s.Err()
}

func name(file string) string {
	n, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(n, "-", "_")
}

func (l *loader) coldPlug() {
	filepath.WalkDir("/sys/devices", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil
		}
		a := read(p)
		for _, al := range l.alias {
			if ok, _ := path.Match(al[0], a); ok {
				l.load(al[1]) // a device may lack what its driver wants
			}
		}
		return nil
	})
}

func (l *loader) load(n string) error {
	p, ok := l.path[n]
	if !ok || l.loaded[n] {
		return nil
	}
	for _, d := range l.deps[n] {
		if err := l.load(d); err != nil {
			return fmt.Errorf("for %s: %w", n, err)
		}
	}
	f, err := os.Open(filepath.Join(l.dir, p))
	if err != nil {
		return err
	}
	defer f.Close()
	flags := 0
	if strings.HasSuffix(p, ".xz") {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	if err := unix.FinitModule(int(f.Fd()), "", flags); err != nil && !errors.Is(err, syscall.EEXIST) {
		return fmt.Errorf("%s: %w", n, err)
	}
	l.loaded[n] = true
	return nil
}
