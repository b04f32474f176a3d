// Image makes the bootable disk image from kernel, EFI stub and initramfs (appliance.md 3).
//
//	go run ./image -boot build/boot -initramfs build/initramfs.cpio.zst -o build/armarium.img
//
// Version, image id and command line come from /etc/image.json inside the initramfs: a
// medium cannot claim to be something else than what runs from it. The same inputs give the
// same bytes.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"

	"armarium/image/diskimg"
	"armarium/image/layout"
	"armarium/image/uki"
)

// Budgets (appliance.md 17), in bytes. A build that exceeds one fails.
const (
	maxUKI        = 48 << 20
	maxCompressed = 48 << 20
	maxUnpacked   = 64<<20 + 4<<20 // contents, and the headers of the archive
)

func main() {
	if err := run(os.Args[1:], os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			os.Exit(2)
		}
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(args []string, say io.Writer) error {
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.SetOutput(say)
	out := f.String("o", "build/armarium.img", "write the image here")
	boot := f.String("boot", "build/boot", "`folder` with vmlinuz and stub.efi")
	initramfs := f.String("initramfs", "build/initramfs.cpio.zst", "the initramfs")
	packed := f.String("z", "", "write the image compressed with zstd here too")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected word %q", f.Arg(0))
	}
	start := time.Now()
	vmlinuz, err := os.ReadFile(filepath.Join(*boot, "vmlinuz"))
	if err != nil {
		return err
	}
	stub, err := os.ReadFile(filepath.Join(*boot, "stub.efi"))
	if err != nil {
		return err
	}
	initrd, err := os.ReadFile(*initramfs)
	if err != nil {
		return err
	}
	info, err := readInfo(initrd)
	if err != nil {
		return fmt.Errorf("%s: %w", *initramfs, err)
	}
	p, err := parts(info, stub, vmlinuz, initrd)
	if err != nil {
		return err
	}
	if err := build(*out, p); err != nil {
		return err
	}
	fmt.Fprintf(say, "image: %s: version %s, image id %s, kernel %s, %.1f MB used, %.1f s\n", *out, info.Version, info.ImageID,
		info.KernelRelease, float64(len(p.Files[0].Data))/1e6, time.Since(start).Seconds())
	if !info.Locked {
		fmt.Fprintln(say, "image: packages differ from the lock: this is no reproducible build")
	}
	if *packed == "" {
		return nil
	}
	n, err := compress(*packed, *out)
	if err != nil {
		return err
	}
	fmt.Fprintf(say, "image: %s: %.1f MB\n", *packed, float64(n)/1e6)
	return nil
}

// parts makes the files of the system partition.
func parts(info layout.Info, stub, vmlinuz, initrd []byte) (diskimg.Parts, error) {
	osrel := fmt.Sprintf("ID=armarium\nNAME=Armarium\nPRETTY_NAME=\"Armarium %s\"\nVERSION_ID=%s\nIMAGE_ID=%s\n",
		info.Version, info.Version, info.ImageID)
	img, err := uki.Build(stub, []uki.Section{
		{Name: ".osrel", Data: []byte(osrel)},
		{Name: ".cmdline", Data: []byte(info.CommandLine)},
		{Name: ".uname", Data: []byte(info.KernelRelease)},
		{Name: ".initrd", Data: initrd},
		{Name: ".linux", Data: vmlinuz},
	})
	if err != nil {
		return diskimg.Parts{}, err
	}
	if len(img) > maxUKI {
		return diskimg.Parts{}, fmt.Errorf("unified kernel image: %d bytes, the budget is %d", len(img), int64(maxUKI))
	}
	return diskimg.Parts{
		Manifest: layout.Manifest{Version: info.Version, ImageID: info.ImageID, KernelRelease: info.KernelRelease,
			CommandLine: info.CommandLine},
		Files: []diskimg.File{
			{Name: layout.UKIName, Data: img},
			{Name: layout.ReadmeName, Data: readme(info)},
		},
	}, nil
}

func readme(info layout.Info) []byte {
	text := `Armarium ` + info.Version + `

This medium starts a node that preserves content together with others. It is
not for files: nothing that is put here is used. Start the machine from it, set
the write-lock switch after it has been configured, and keep it plugged in.

A configured medium holds the keys of its node. Whoever has it is the node.

Image id ` + info.ImageID + `
`
	return []byte(strings.ReplaceAll(text, "\n", "\r\n")) // opened on any laptop
}

func build(name string, p diskimg.Parts) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return err
	}
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	err = diskimg.Build(f, p)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		os.Remove(name + ".new")
		return err
	}
	return os.Rename(name+".new", name)
}

func compress(to, from string) (int64, error) {
	in, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(z, in); err != nil {
		return 0, err
	}
	if err := z.Close(); err != nil {
		return 0, err
	}
	if b.Len() > maxCompressed {
		return 0, fmt.Errorf("compressed image: %d bytes, the budget is %d", b.Len(), int64(maxCompressed))
	}
	return int64(b.Len()), os.WriteFile(to, b.Bytes(), 0o666)
}

// readInfo reads image.json out of an initramfs.
func readInfo(archive []byte) (layout.Info, error) {
	z, err := zstd.NewReader(bytes.NewReader(archive), zstd.WithDecoderConcurrency(1))
	if err != nil {
		return layout.Info{}, err
	}
	defer z.Close()
	raw, err := io.ReadAll(io.LimitReader(z, maxUnpacked+1))
	if err != nil {
		return layout.Info{}, err
	}
	if len(raw) > maxUnpacked {
		return layout.Info{}, fmt.Errorf("unpacked it is larger than %d bytes", int64(maxUnpacked))
	}
	var text []byte
	err = cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(raw)), func(r cpio.Record) error {
		if "/"+r.Name != layout.InfoPath {
			return nil
		}
		if r.FileSize > layout.MaxManifest {
			return fmt.Errorf("%s is larger than %d bytes", layout.InfoPath, layout.MaxManifest)
		}
		text, err = io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		return err
	})
	if err != nil {
		return layout.Info{}, err
	}
	if text == nil {
		return layout.Info{}, fmt.Errorf("no %s in it: it was not made by ./initramfs", layout.InfoPath)
	}
	return layout.ParseInfo(text)
}
