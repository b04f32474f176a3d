package fat

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Limits for what is read from a medium.
const (
	maxFAT     = 64 << 20 // bytes of one FAT
	maxDir     = 2 << 20  // bytes of one directory
	maxEntries = 1 << 16  // files and directories
	maxDepth   = 16
)

// FS is a FAT32 file system that is read.
type FS struct {
	Label  string
	Serial uint32

	r       io.ReaderAt
	table   []uint32
	data    int64 // first byte of cluster 2
	cluster int64 // bytes
	files   []Entry
	chains  map[string][]uint32
}

// Open reads the tables and directories of a FAT32 file system.
func Open(r io.ReaderAt) (*FS, error) {
	le := binary.LittleEndian
	b := make([]byte, sector)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("fat: read boot sector: %w", err)
	}
	spc, res, fats := int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	total, fatSec := int64(le.Uint32(b[32:])), int64(le.Uint32(b[36:]))
	if b[510] != 0x55 || b[511] != 0xaa || le.Uint16(b[11:]) != sector ||
		spc == 0 || spc&(spc-1) != 0 || res == 0 || fats == 0 || fats > 2 ||
		le.Uint16(b[17:]) != 0 || le.Uint16(b[22:]) != 0 {
		return nil, fmt.Errorf("fat: not a FAT32 file system with sectors of %d bytes", sector)
	}
	clusters := (total - res - fats*fatSec) / spc
	if fatSec*sector > maxFAT || clusters < 1 || (clusters+2)*4 > fatSec*sector {
		return nil, fmt.Errorf("fat: %d sectors with FATs of %d", total, fatSec)
	}
	f := &FS{r: r, Serial: le.Uint32(b[67:]), data: (res + fats*fatSec) * sector, cluster: spc * sector,
		chains: map[string][]uint32{}}
	raw := make([]byte, (clusters+2)*4)
	if _, err := r.ReadAt(raw, res*sector); err != nil {
		return nil, fmt.Errorf("fat: read FAT: %w", err)
	}
	f.table = make([]uint32, clusters+2)
	for i := range f.table {
		f.table[i] = le.Uint32(raw[4*i:]) & 0x0fffffff
	}
	if err := f.readDir("", le.Uint32(b[44:]), 0); err != nil {
		return nil, err
	}
	sort.Slice(f.files, func(i, j int) bool { return f.files[i].Name < f.files[j].Name })
	return f, nil
}

// Files lists all files, sorted by name.
func (f *FS) Files() []Entry { return append([]Entry(nil), f.files...) }

// ReadFile reads a file of at most limit bytes. The error wraps ErrNotExist when there is
// none. Names are compared without regard to case.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) {
	for _, e := range f.files {
		if !strings.EqualFold(e.Name, name) {
			continue
		}
		if e.Size > limit {
			return nil, fmt.Errorf("fat: %s: %d bytes, more than %d", name, e.Size, limit)
		}
		b := make([]byte, e.Size)
		if err := f.read(b, f.chains[e.Name]); err != nil {
			return nil, fmt.Errorf("fat: %s: %w", name, err)
		}
		return b, nil
	}
	return nil, fmt.Errorf("fat: %s: %w", name, ErrNotExist)
}

// read fills b from a chain, in one read for each contiguous run.
func (f *FS) read(b []byte, chain []uint32) error {
	for len(b) > 0 && len(chain) > 0 {
		run := 1
		for run < len(chain) && chain[run] == chain[run-1]+1 {
			run++
		}
		n := min(int64(run)*f.cluster, int64(len(b)))
		if _, err := f.r.ReadAt(b[:n], f.at(chain[0])); err != nil {
			return err
		}
		b, chain = b[n:], chain[run:]
	}
	if len(b) > 0 {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func (f *FS) at(c uint32) int64 { return f.data + int64(c-2)*f.cluster }

// chain follows the clusters from first, at most limit of them.
func (f *FS) chain(first uint32, limit int64) ([]uint32, error) {
	var c []uint32
	for n := first; n < 0x0ffffff8; n = f.table[n] {
		if n < 2 || int64(n) >= int64(len(f.table)) {
			return nil, fmt.Errorf("chain leads to cluster %d", n)
		}
		if int64(len(c)) >= limit {
			return nil, fmt.Errorf("chain from cluster %d is longer than its file", first)
		}
		c = append(c, n)
	}
	return c, nil
}

func (f *FS) readDir(path string, first uint32, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("fat: %s: directories nested too deep", path)
	}
	c, err := f.chain(first, maxDir/f.cluster+1)
	if err != nil {
		return fmt.Errorf("fat: directory %q: %w", path, err)
	}
	b := make([]byte, int64(len(c))*f.cluster)
	if err := f.read(b, c); err != nil {
		return fmt.Errorf("fat: directory %q: %w", path, err)
	}
	le := binary.LittleEndian
	for ; len(b) >= 32 && b[0] != 0; b = b[32:] {
		e := b[:32]
		attr := e[11]
		if e[0] == 0xe5 || e[0] == '.' || attr&0x3f == attrLong {
			continue
		}
		if attr&attrVolume != 0 {
			if path == "" {
				f.Label = strings.TrimRight(string(e[:11]), " ")
			}
			continue
		}
		name := strings.TrimRight(string(e[:8]), " ")
		if ext := strings.TrimRight(string(e[8:11]), " "); ext != "" {
			name += "." + ext
		}
		if path != "" {
			name = path + "/" + name
		}
		if len(f.files) >= maxEntries {
			return fmt.Errorf("fat: more than %d files", maxEntries)
		}
		cl := uint32(le.Uint16(e[20:]))<<16 | uint32(le.Uint16(e[26:]))
		if attr&attrDir != 0 {
			if err := f.readDir(name, cl, depth+1); err != nil {
				return err
			}
			continue
		}
		size := int64(le.Uint32(e[28:]))
		if _, dup := f.chains[name]; dup {
			return fmt.Errorf("fat: two files %s", name)
		}
		en := Entry{Name: name, Size: size, Offset: -1, Contiguous: true}
		if size > 0 {
			need := (size + f.cluster - 1) / f.cluster
			ch, err := f.chain(cl, need)
			if err != nil {
				return fmt.Errorf("fat: %s: %w", name, err)
			}
			if int64(len(ch)) < need {
				return fmt.Errorf("fat: %s: chain is shorter than the file", name)
			}
			en.Offset = f.at(ch[0])
			for i := range ch {
				en.Contiguous = en.Contiguous && ch[i] == ch[0]+uint32(i)
			}
			f.chains[name] = ch
		} else {
			f.chains[name] = nil
		}
		f.files = append(f.files, en)
	}
	return nil
}
