package rootfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// Packages are the trees of unpacked packages, looked through in order. A file that a
// package has below /usr is found without it too, and the reverse: Debian moves them.
type Packages []string

// ErrNotPacked means that no package has a file.
var ErrNotPacked = errors.New("in none of the packages")

const maxLinks = 8

// Read reads a file of the packages. Links are followed inside them.
func (ps Packages) Read(name string) ([]byte, error) {
	full, err := ps.find(name, 0)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(full)
}

func (ps Packages) find(name string, depth int) (string, error) {
	if depth > maxLinks {
		return "", fmt.Errorf("%s: too many links", name)
	}
	for _, root := range ps {
		for _, n := range []string{name, "/usr" + name, strings.TrimPrefix(name, "/usr")} {
			full := filepath.Join(root, filepath.FromSlash(path.Clean("/"+n)))
			st, err := os.Lstat(full)
			if err != nil {
				continue
			}
			if st.Mode().IsRegular() {
				return full, nil
			}
			if st.Mode()&fs.ModeSymlink == 0 {
				continue
			}
			to, err := os.Readlink(full)
			if err != nil {
				return "", err
			}
			if !path.IsAbs(to) {
				to = path.Join(path.Dir(n), to)
			}
			return ps.find(to, depth+1)
		}
	}
	return "", fmt.Errorf("%s: %w", name, ErrNotPacked)
}

// Glob lists the regular files that match a pattern, by name, sorted.
func (ps Packages) Glob(pattern string) ([]string, error) {
	var out []string
	for _, root := range ps {
		g, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, f := range g {
			if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
				out = append(out, strings.TrimPrefix(filepath.ToSlash(f), filepath.ToSlash(root)))
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// libraryDir is where ld.so of Debian looks without being told.
const libraryDir = "/lib/x86_64-linux-gnu"

// AddProgram puts a dynamically linked program into a tree, with its interpreter and the
// libraries it needs. Libraries come from the packages only, never from this machine.
func (ps Packages) AddProgram(t *Tree, name string) error {
	return ps.addELF(t, name, name)
}

func (ps Packages) addELF(t *Tree, as, name string) error {
	if t.Has(as) {
		return nil
	}
	b, err := ps.Read(name)
	if err != nil {
		return err
	}
	if err := t.File(as, 0o755, b); err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		s := make([]byte, p.Filesz)
		if _, err := p.ReadAt(s, 0); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ld := string(bytes.TrimRight(s, "\x00"))
		if err := ps.addELF(t, ld, ld); err != nil {
			return fmt.Errorf("interpreter of %s: %w", name, err)
		}
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, l := range libs {
		if strings.HasPrefix(l, "ld-linux") {
			continue // the interpreter
		}
		if err := ps.addELF(t, libraryDir+"/"+l, libraryDir+"/"+l); err != nil {
			return fmt.Errorf("library of %s: %w", name, err)
		}
	}
	return nil
}

// Static tells whether a program runs alone: an error says what it would need.
func Static(program []byte) error {
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return err
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("is a program for %v, want x86-64", f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("is linked dynamically, there is nothing to link it with at run time: link it statically")
		}
	}
	return nil
}
