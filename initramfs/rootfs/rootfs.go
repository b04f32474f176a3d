// Package rootfs makes the file tree of the running system as an initramfs.
//
// A Tree is filled with files, folders, links and device nodes; folders above them are made
// by themselves. Write gives a newc archive: sorted by name, owned by root, no times, inode
// numbers by position, so that the same tree gives the same bytes.
package rootfs

import (
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
)

// Window is the zstd window, in bytes: larger ones cost RAM at boot.
const Window = 8 << 20

// Types of a Linux mode: a field, not bits.
const (
	typeMask = 0o170000
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
	typeLink = 0o120000
)

// Tree is a file tree in memory. The zero value is an empty one.
type Tree struct {
	nodes map[string]node
}

type node struct {
	mode         uint64
	data         []byte // content, or target of a link
	major, minor uint64
}

func (n node) isDir() bool { return n.mode&typeMask == typeDir }

// File adds a file. name is absolute.
func (t *Tree) File(name string, perm uint64, data []byte) error {
	return t.add(name, node{mode: typeFile | perm, data: data})
}

// Dir adds a folder, or sets the mode of one.
func (t *Tree) Dir(name string, perm uint64) error {
	return t.add(name, node{mode: typeDir | perm})
}

// Link adds a symbolic link.
func (t *Tree) Link(name, target string) error {
	return t.add(name, node{mode: typeLink | 0o777, data: []byte(target)})
}

// Char adds a character device.
func (t *Tree) Char(name string, perm, major, minor uint64) error {
	return t.add(name, node{mode: typeChar | perm, major: major, minor: minor})
}

func (t *Tree) add(name string, n node) error {
	if t.nodes == nil {
		t.nodes = map[string]node{}
	}
	if path.Clean(name) != name || !strings.HasPrefix(name, "/") || name == "/" {
		return fmt.Errorf("initramfs: %q is not a plain absolute name", name)
	}
	old, taken := t.nodes[name]
	if taken && !(old.isDir() && n.isDir()) {
		return fmt.Errorf("initramfs: %s is there twice", name)
	}
	t.nodes[name] = n
	for d := path.Dir(name); d != "/"; d = path.Dir(d) {
		if p, ok := t.nodes[d]; ok {
			if !p.isDir() {
				return fmt.Errorf("initramfs: %s: %s is no folder", name, d)
			}
			continue
		}
		t.nodes[d] = node{mode: typeDir | 0o755}
	}
	return nil
}

// Has tells whether a name is there.
func (t *Tree) Has(name string) bool {
	_, ok := t.nodes[name]
	return ok
}

// Names lists all names, sorted: a folder comes before what is in it.
func (t *Tree) Names() []string {
	names := make([]string, 0, len(t.nodes))
	for n := range t.nodes {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Size is the sum of all contents in bytes: what the tree takes in RAM, folders and page
// ends aside.
func (t *Tree) Size() int64 {
	var s int64
	for _, n := range t.nodes {
		s += int64(len(n.data))
	}
	return s
}

// Sum is a SHA-256 over all names, modes and contents, for an image id.
func (t *Tree) Sum() [sha256.Size]byte {
	h := sha256.New()
	for _, name := range t.Names() {
		n := t.nodes[name]
		fmt.Fprintf(h, "%q %o %d:%d %x\n", name, n.mode, n.major, n.minor, sha256.Sum256(n.data))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// Write writes the tree as a newc archive.
func (t *Tree) Write(w io.Writer) error {
	rw := cpio.Newc.Writer(w)
	for i, name := range t.Names() {
		n := t.nodes[name]
		info := cpio.Info{
			Ino:    uint64(i + 1),
			Mode:   n.mode,
			NLink:  1,
			Name:   strings.TrimPrefix(name, "/"),
			Rmajor: n.major,
			Rminor: n.minor,
		}
		if n.isDir() {
			info.NLink = 2
		}
		if err := rw.WriteRecord(cpio.StaticRecord(n.data, info)); err != nil {
			return fmt.Errorf("initramfs: %s: %w", name, err)
		}
	}
	if err := cpio.WriteTrailer(rw); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return nil
}

// Compress writes the tree as a zstd-compressed newc archive, in one thread.
func (t *Tree) Compress(w io.Writer, level zstd.EncoderLevel) error {
	z, err := zstd.NewWriter(w,
		zstd.WithEncoderLevel(level),
		zstd.WithWindowSize(Window),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true))
	if err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	if err := t.Write(z); err != nil {
		return err
	}
	return z.Close()
}
