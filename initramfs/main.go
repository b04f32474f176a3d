// Initramfs packs the system that runs from RAM: PID 1, the daemon, kernel modules, file
// system tools and certificates (appliance.md 3.1).
//
//	go run ./initramfs -init build/init -daemon build/armariumd -o build/initramfs.cpio.zst -boot build/boot
//
// It gets the Debian packages of initramfs/inputs.lock, and leaves kernel and EFI stub in
// the folder -boot, because the image id in /etc/image.json covers them too.
//
//	/init  /bin/armariumd           the two programs
//	/sbin/{e2fsck,mke2fs,tune2fs}   with /etc/mke2fs.conf, ld.so and libraries
//	/lib/modules/<release>/         modules and tables (rootfs.Modules.AddTo)
//	/etc/ssl/certs/ca-certificates.crt
//	/etc/armarium/trust/            keys and certificates of -trust
//	/etc/image.json                 what this is (image/layout.Info)
//	/dev/console  /dev/null         without console PID 1 would start mute
//	/proc /sys /run /tmp            mount points
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"armarium/image/layout"
	"armarium/initramfs/inputs"
	"armarium/initramfs/rootfs"
)

// Budgets (appliance.md 17), in bytes. A build that exceeds one fails.
const (
	maxInit     = 12_000_000
	maxDaemon   = 40_000_000
	maxUnpacked = 64 << 20
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "initramfs:", err)
		os.Exit(1)
	}
}

type options struct {
	out, boot, init, daemon      string
	inputs, lock, modules, trust string
	version, appendLine, level   string
	any, debug, fetch, relock    bool
}

func parse(args []string, say io.Writer) (options, error) {
	var o options
	var kernel string
	f := flag.NewFlagSet("initramfs", flag.ContinueOnError)
	f.SetOutput(say)
	f.StringVar(&o.out, "o", "build/initramfs.cpio.zst", "write the initramfs here")
	f.StringVar(&o.boot, "boot", "build/boot", "put vmlinuz and stub.efi into this `folder`")
	f.StringVar(&o.init, "init", "build/init", "PID 1, a static program")
	f.StringVar(&o.daemon, "daemon", "build/armariumd", "the daemon, a static program; empty: none")
	f.StringVar(&o.inputs, "inputs", "build/inputs", "`folder` of downloaded packages")
	f.StringVar(&o.lock, "lock", "initramfs/inputs.lock", "the packages to use")
	f.StringVar(&o.modules, "modules", "initramfs/modules.list", "roots of the module set")
	f.StringVar(&o.trust, "trust", "", "`folder` of keys and certificates for /etc/armarium/trust")
	f.StringVar(&o.version, "version", "devel", "version of the image")
	f.StringVar(&o.appendLine, "append", "", "more `words` for the kernel command line, for tests")
	f.StringVar(&o.level, "level", "better", "compression: fastest, default, better or best")
	f.StringVar(&kernel, "kernel", "lock", "lock: packages exactly as locked; any: what the archive has when it no longer has those")
	f.BoolVar(&o.debug, "debug", false, "mark the image as a debug image")
	f.BoolVar(&o.fetch, "fetch", false, "only get the packages")
	f.BoolVar(&o.relock, "relock", false, "only write what the archive has now into the lock")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected word %q", f.Arg(0))
	}
	switch kernel {
	case "lock", "":
	case "any":
		o.any = true
	default:
		return o, fmt.Errorf("-kernel %s: want lock or any", kernel)
	}
	return o, nil
}

func run(ctx context.Context, args []string, say io.Writer) error {
	o, err := parse(args, say)
	if err != nil {
		return err
	}
	lock, err := inputs.ReadLock(o.lock)
	if err != nil {
		return err
	}
	f := &inputs.Fetcher{Dir: o.inputs, Archive: inputs.Apt{}, Any: o.any, Say: say}
	if o.relock {
		var now []inputs.Package
		for _, p := range lock.Packages {
			n, err := f.Newest(ctx, p)
			if err != nil {
				return err
			}
			now = append(now, n)
		}
		return lock.Update(now)
	}
	got, err := f.Fetch(ctx, lock)
	if err != nil || o.fetch {
		return err
	}
	return pack(o, got, say)
}

func pack(o options, got *inputs.Result, say io.Writer) error {
	start := time.Now()
	var ps rootfs.Packages
	for _, d := range got.Debs {
		ps = append(ps, d.Root)
	}
	kernel, err := kernelDeb(got)
	if err != nil {
		return err
	}
	mods, err := rootfs.OpenModules(kernel.Root)
	if err != nil {
		return err
	}

	t := &rootfs.Tree{}
	if err := programs(t, o); err != nil {
		return err
	}
	if err := system(t, ps); err != nil {
		return err
	}
	if o.trust != "" {
		if err := folder(t, "/etc/armarium/trust", o.trust); err != nil {
			return err
		}
	}
	roots, err := readRoots(o.modules)
	if err != nil {
		return err
	}
	names, err := mods.Select(roots)
	var missing *rootfs.MissingError
	if errors.As(err, &missing) && !got.Locked {
		fmt.Fprintln(say, "initramfs:", missing, "- going on without them")
	} else if err != nil {
		return fmt.Errorf("%s: %w", o.modules, err)
	}
	if err := mods.AddTo(t, names); err != nil {
		return err
	}

	vmlinuz, err := ps.Read("/boot/vmlinuz-" + mods.Release)
	if err != nil {
		return err
	}
	stub, err := ps.Read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
	if err != nil {
		return err
	}
	info := layout.Info{
		Layout:        layout.Version,
		Version:       o.version,
		KernelRelease: mods.Release,
		Locked:        got.Locked,
		Debug:         o.debug,
	}
	for _, d := range got.Debs {
		info.Inputs = append(info.Inputs, layout.Input{Name: d.Name, Version: d.Version, SHA256: d.SHA256})
		info.Built = max(info.Built, d.Built)
	}
	sort.Slice(info.Inputs, func(i, j int) bool { return info.Inputs[i].Name < info.Inputs[j].Name })
	info.ImageID = imageID(o, t, vmlinuz, stub)
	info.CommandLine = layout.CommandLine(info.ImageID)
	if o.appendLine != "" {
		info.CommandLine += " " + o.appendLine
	}
	b, err := info.Encode()
	if err != nil {
		return err
	}
	if err := t.File(layout.InfoPath, 0o644, b); err != nil {
		return err
	}
	if t.Size() > maxUnpacked {
		return fmt.Errorf("unpacked it takes %d bytes, the budget is %d", t.Size(), int64(maxUnpacked))
	}

	var z bytes.Buffer
	_, level := zstd.EncoderLevelFromString(o.level)
	fmt.Fprintf(say, "initramfs: packing %d modules of %s, %.1f MB in all\n", len(names), mods.Release, float64(t.Size())/1e6)
	if err := t.Compress(&z, level); err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
	}{
		{filepath.Join(o.boot, "vmlinuz"), vmlinuz},
		{filepath.Join(o.boot, "stub.efi"), stub},
		{o.out, z.Bytes()},
	} {
		if err := writeFile(f.name, f.data); err != nil {
			return err
		}
	}
	fmt.Fprintf(say, "initramfs: %s: %.1f MB, image id %s, %.1f s\n", o.out, float64(z.Len())/1e6, info.ImageID, time.Since(start).Seconds())
	return nil
}

// imageID covers everything that runs. The file that tells it is not in the tree yet.
func imageID(o options, t *rootfs.Tree, vmlinuz, stub []byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "armarium image %d\n%q %t\n%q\n%x\n%x\n%x\n", layout.Version, o.version, o.debug,
		layout.CommandLine("")+" "+o.appendLine, t.Sum(), sha256.Sum256(vmlinuz), sha256.Sum256(stub))
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func kernelDeb(got *inputs.Result) (inputs.Deb, error) {
	for _, d := range got.Debs {
		if strings.HasPrefix(d.Name, "linux-image-") {
			return d, nil
		}
	}
	return inputs.Deb{}, errors.New("the lock names no linux-image package")
}

func programs(t *rootfs.Tree, o options) error {
	for _, p := range []struct {
		from, to string
		budget   int
	}{
		{o.init, "/init", maxInit},
		{o.daemon, "/bin/armariumd", maxDaemon},
	} {
		if p.from == "" {
			continue
		}
		b, err := os.ReadFile(p.from)
		if err != nil {
			return err
		}
		if len(b) > p.budget {
			return fmt.Errorf("%s: %d bytes, the budget is %d", p.from, len(b), p.budget)
		}
		if err := rootfs.Static(b); err != nil {
			return fmt.Errorf("%s: %w", p.from, err)
		}
		if err := t.File(p.to, 0o755, b); err != nil {
			return err
		}
	}
	return nil
}

func system(t *rootfs.Tree, ps rootfs.Packages) error {
	for _, d := range []string{"/proc", "/sys", "/run", "/bin", "/sbin"} {
		if err := t.Dir(d, 0o755); err != nil {
			return err
		}
	}
	if err := t.Dir("/tmp", 0o1777); err != nil {
		return err
	}
	if err := t.Char("/dev/console", 0o600, 5, 1); err != nil {
		return err
	}
	if err := t.Char("/dev/null", 0o666, 1, 3); err != nil {
		return err
	}
	for _, p := range []string{"/sbin/e2fsck", "/sbin/mke2fs", "/sbin/tune2fs"} {
		if err := ps.AddProgram(t, p); err != nil {
			return err
		}
	}
	conf, err := ps.Read("/etc/mke2fs.conf")
	if err != nil {
		return err
	}
	if err := t.File("/etc/mke2fs.conf", 0o644, conf); err != nil {
		return err
	}
	certs, err := ps.Glob("/usr/share/ca-certificates/mozilla/*.crt")
	if err != nil {
		return err
	}
	if len(certs) == 0 {
		return errors.New("the packages have no certificates of authorities")
	}
	var all bytes.Buffer
	for _, c := range certs {
		b, err := ps.Read(c)
		if err != nil {
			return err
		}
		all.Write(bytes.TrimSpace(b))
		all.WriteByte('\n')
	}
	return t.File("/etc/ssl/certs/ca-certificates.crt", 0o644, all.Bytes())
}

// folder adds the plain files of a folder.
func folder(t *rootfs.Tree, to, from string) error {
	es, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range es {
		if !e.Type().IsRegular() {
			continue
		}
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := t.File(to+"/"+e.Name(), 0o644, b); err != nil {
			return err
		}
	}
	return nil
}

// readRoots reads words separated by space; "#" begins a comment.
func readRoots(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, line := range strings.Split(string(b), "\n") {
		line, _, _ = strings.Cut(line, "#")
		roots = append(roots, strings.Fields(line)...)
	}
	return roots, nil
}

// writeFile replaces a file whole: a build that is broken off leaves the old one.
func writeFile(name string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", b, 0o666); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}
