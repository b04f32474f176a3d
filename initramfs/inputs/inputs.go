// Package inputs gets the Debian packages an image is made of.
//
// The lock file names them; a line is
//
//	name  version  sha256  [metapackage]
//
// with the SHA-256 of the .deb file, and for a package whose name carries a version (the
// kernel) the metapackage that depends on the newest one. "#" begins a comment.
//
// A locked package comes from the folder of inputs, or from the archive through apt. When
// the archive no longer has it, a Locked build stops and says which line to change to what;
// an Any build takes what the archive has now and says so. Nothing is installed: packages
// are unpacked into folders beside them, each once.
package inputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Package is one binary package.
type Package struct {
	Name, Version string
	SHA256        string // hex, of the .deb file
	Meta          string // metapackage that names the newest, or ""
	Line          int    // in the lock file
}

func (p Package) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s %s", p.Name, p.Version, p.SHA256, p.Meta))
}

// Lock is a lock file.
type Lock struct {
	Path     string
	Packages []Package
}

const maxLock = 1 << 20

// ReadLock reads a lock file.
func ReadLock(path string) (*Lock, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(b) > maxLock {
		return nil, fmt.Errorf("%s: larger than %d bytes", path, maxLock)
	}
	l := &Lock{Path: path}
	seen := map[string]bool{}
	for i, line := range strings.Split(string(b), "\n") {
		text, _, _ := strings.Cut(line, "#")
		w := strings.Fields(text)
		if len(w) == 0 {
			continue
		}
		if len(w) < 3 || len(w) > 4 || !isSum(w[2]) || seen[w[0]] || !isName(w[0]) || !isVersion(w[1]) {
			return nil, fmt.Errorf("%s:%d: want a new name, a version, a SHA-256 and perhaps a metapackage", path, i+1)
		}
		p := Package{Name: w[0], Version: w[1], SHA256: w[2], Line: i + 1}
		if len(w) == 4 {
			if p.Meta = w[3]; !isName(p.Meta) {
				return nil, fmt.Errorf("%s:%d: %q is not a package name", path, i+1, p.Meta)
			}
		}
		seen[p.Name] = true
		l.Packages = append(l.Packages, p)
	}
	return l, nil
}

// Update replaces the packages of the lock file by these, in order, keeping its comments.
func (l *Lock) Update(now []Package) error {
	b, err := os.ReadFile(l.Path)
	if err != nil {
		return err
	}
	lines := strings.Split(string(b), "\n")
	for i, p := range l.Packages {
		lines[p.Line-1] = now[i].String()
	}
	tmp := l.Path + ".new"
	if err := os.WriteFile(tmp, []byte(strings.Join(lines, "\n")), 0o666); err != nil {
		return err
	}
	return os.Rename(tmp, l.Path)
}

func isSum(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size
}

// Names and versions become file names and arguments of apt.
func isName(s string) bool {
	return s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789+-.") == "" && s[0] != '-' && s[0] != '.'
}

func isVersion(s string) bool {
	return s != "" && s[0] >= '0' && s[0] <= '9' &&
		strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-.~:") == ""
}

// ErrGone means that the archive has no such package version.
var ErrGone = errors.New("not in the archive")

// An Archive is where packages come from.
type Archive interface {
	// Candidate tells the version of a package that the archive offers now, and the
	// packages it depends on. The error wraps ErrGone when there is none.
	Candidate(ctx context.Context, name string) (p Package, depends []string, err error)
	// Download puts the .deb into dir and returns its path. The error wraps ErrGone when the
	// archive does not have this version.
	Download(ctx context.Context, p Package, dir string) (string, error)
}

// Fetcher gets the packages of a lock.
type Fetcher struct {
	Dir     string    // the folder of inputs, made when missing
	Archive Archive   // usually Apt{}
	Any     bool      // take what the archive has now for a package it no longer has
	Say     io.Writer // progress and differences, one line each
}

// Deb is one package that is there and whole.
type Deb struct {
	Package
	File  string // the .deb
	Root  string // its files, unpacked
	Built int64  // when it was made, seconds since 1970
}

// Result is what Fetch got.
type Result struct {
	Debs   []Deb // in the order of the lock
	Locked bool  // all exactly as locked
}

// Deb finds a package by name, or by the metapackage of its line.
func (r *Result) Deb(name string) (Deb, bool) {
	for _, d := range r.Debs {
		if d.Name == name || d.Meta != "" && d.Meta == name {
			return d, true
		}
	}
	return Deb{}, false
}

// Fetch gets and unpacks all packages of the lock.
func (f *Fetcher) Fetch(ctx context.Context, l *Lock) (*Result, error) {
	if err := os.MkdirAll(f.Dir, 0o777); err != nil {
		return nil, err
	}
	r := &Result{Locked: true}
	for _, p := range l.Packages {
		file, err := f.get(ctx, p)
		if errors.Is(err, ErrGone) {
			now, nerr := f.Newest(ctx, p)
			switch {
			case nerr == nil && now == p:
				return nil, fmt.Errorf("%s:%d: the archive lists this version but does not give it; try again later: %w", l.Path, p.Line, err)
			case nerr != nil:
				return nil, fmt.Errorf("%s:%d: %w (looking for another: %w)", l.Path, p.Line, err, nerr)
			case !f.Any:
				return nil, fmt.Errorf("%s:%d: %w; to use what the archive has, change this line to\n%s\nor build with KERNEL=any, which claims no reproducible release", l.Path, p.Line, err, now)
			}
			fmt.Fprintf(f.Say, "inputs: %s:%d: %s %s is locked, taking %s %s: this is no reproducible build\n",
				l.Path, p.Line, p.Name, p.Version, now.Name, now.Version)
			r.Locked = false
			p = now
			file, err = f.get(ctx, p)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", l.Path, p.Line, err)
		}
		d := Deb{Package: p, File: file}
		if d.Built, err = built(file); err != nil {
			return nil, err
		}
		if d.Root, err = f.unpack(ctx, d); err != nil {
			return nil, err
		}
		r.Debs = append(r.Debs, d)
	}
	return r, nil
}

// Newest tells what the archive offers now in the place of a locked package.
func (f *Fetcher) Newest(ctx context.Context, p Package) (Package, error) {
	name := p.Name
	if p.Meta != "" {
		_, deps, err := f.Archive.Candidate(ctx, p.Meta)
		if err != nil {
			return Package{}, err
		}
		// The kernel of the metapackage: same beginning, other version.
		prefix, _, _ := strings.Cut(p.Name, "-image-")
		for _, d := range deps {
			if strings.HasPrefix(d, prefix+"-image-") {
				name = d
			}
		}
	}
	now, _, err := f.Archive.Candidate(ctx, name)
	if err != nil {
		return Package{}, err
	}
	now.Meta, now.Line = p.Meta, p.Line
	return now, nil
}

// get returns the file of a package, downloading it when it is not there yet.
func (f *Fetcher) get(ctx context.Context, p Package) (string, error) {
	path := filepath.Join(f.Dir, p.file()+".deb")
	if sum, err := sumFile(path); err == nil && sum == p.SHA256 {
		return path, nil
	}
	fmt.Fprintf(f.Say, "inputs: downloading %s %s\n", p.Name, p.Version)
	dir, err := os.MkdirTemp(f.Dir, "download")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	got, err := f.Archive.Download(ctx, p, dir)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", p.Name, p.Version, err)
	}
	sum, err := sumFile(got)
	if err != nil {
		return "", err
	}
	if sum != p.SHA256 {
		return "", fmt.Errorf("%s %s: downloaded file has SHA-256 %s, not the locked %s: the archive is not to be trusted here", p.Name, p.Version, sum, p.SHA256)
	}
	if err := os.Rename(got, path); err != nil {
		return "", err
	}
	return path, nil
}

func (p Package) file() string {
	return p.Name + "_" + strings.ReplaceAll(p.Version, ":", "%3a") + "_" + p.SHA256[:16]
}

// unpack unpacks a package into a folder named after its hash, unless that is there: it is
// renamed into place when it is whole.
func (f *Fetcher) unpack(ctx context.Context, d Deb) (string, error) {
	root := filepath.Join(f.Dir, d.file())
	if _, err := os.Stat(root); err == nil {
		return root, nil
	}
	fmt.Fprintf(f.Say, "inputs: unpacking %s %s\n", d.Name, d.Version)
	tmp, err := os.MkdirTemp(f.Dir, "unpack")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := run(ctx, "", nil, "dpkg-deb", "-x", d.File, tmp); err != nil {
		return "", err
	}
	if err := depmod(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, root); err != nil {
		return "", err
	}
	return root, nil
}

// depmod makes the module tables of a kernel's tree; Debian ships it without.
func depmod(ctx context.Context, root string) error {
	for _, base := range []string{root, filepath.Join(root, "usr")} {
		kernels, err := filepath.Glob(filepath.Join(base, "lib/modules/*"))
		if err != nil {
			return err
		}
		for _, k := range kernels {
			if err := run(ctx, "", nil, "depmod", "-b", base, filepath.Base(k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// built reads the time of a .deb from the first header of the ar archive that it is
// (dpkg sets it from the package's last change):
//
//	offset  size  field
//	     0     8  "!<arch>\n"
//	     8    16  name, "debian-binary"
//	    24    12  time, decimal
func built(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var h [36]byte
	if _, err := io.ReadFull(f, h[:]); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	t, err := strconv.ParseInt(string(bytes.TrimSpace(h[24:])), 10, 64)
	if err != nil || string(h[:21]) != "!<arch>\ndebian-binary" {
		return 0, fmt.Errorf("%s: not a Debian package", path)
	}
	return t, nil
}

func sumFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
