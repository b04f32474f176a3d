package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"

	"armarium/image/layout"
	"armarium/initramfs/rootfs"
)

// size weighs the image as it is downloaded.
func (b *bench) size(ctx context.Context) error {
	packed, err := b.product("armarium.img.zst", "image")
	if err != nil {
		return err
	}
	hello, err := b.helloImage(ctx)
	if err != nil {
		return err
	}
	var mb []float64
	for _, name := range []string{packed, hello + ".zst"} {
		st, err := os.Stat(name)
		if err != nil {
			return err
		}
		mb = append(mb, float64(st.Size())/1e6)
	}
	b.add("image size", "MB", lower, mb[:1], mb[1:], "an image of the same kernel and a program that says hello, nothing else; both compressed with zstd")
	return nil
}

// helloImage makes a stick with nothing but the image's kernel and a first process that
// prints a line; beside it, with .zst, the same compressed.
func (b *bench) helloImage(ctx context.Context) (string, error) {
	img := filepath.Join(b.dir, "hello.img")
	if _, err := os.Stat(img + ".zst"); err == nil {
		return img, nil
	}
	if _, err := b.product("boot/vmlinuz", "image"); err != nil {
		return "", err
	}
	program := filepath.Join(b.dir, "hello")
	if err := goTool(ctx, "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./qemu-tests/vm/testdata/hello"); err != nil {
		return "", err
	}
	body, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	id := strings.Repeat("0", 32)
	info, err := layout.Info{Layout: layout.Version, Version: "hello", ImageID: id, KernelRelease: "any", CommandLine: layout.CommandLine(id)}.Encode()
	if err != nil {
		return "", err
	}
	var t rootfs.Tree
	var z bytes.Buffer
	err = errors.Join(t.File("/init", 0o755, body), t.Char("/dev/console", 0o600, 5, 1), t.Dir("/dev", 0o755), t.File(layout.InfoPath, 0o644, info))
	if err == nil {
		err = t.Compress(&z, zstd.SpeedBetterCompression)
	}
	if err != nil {
		return "", err
	}
	initramfs := filepath.Join(b.dir, "hello.cpio.zst")
	if err := os.WriteFile(initramfs, z.Bytes(), 0o644); err != nil {
		return "", err
	}
	return img, goTool(ctx, "run", "./image", "-boot", filepath.Join(b.bin, "boot"), "-initramfs", initramfs, "-o", img, "-z", img+".zst")
}

// goTool runs the go command; the working directory is the module.
func goTool(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, "go", args...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
