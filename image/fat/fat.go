// Package fat writes and reads FAT32 file systems of the plain kind a boot medium needs.
//
// The writer gives the same bytes for the same files: contiguous files in the given order,
// one constant date, 8.3 names in capitals only. Firmware, Linux, Windows and macOS read
// it, and a BIOS loader can take a file by its sectors.
//
//	sector 0        boot sector with the BIOS parameter block
//	sector 1        free cluster information
//	sector 6, 7     their copies
//	sector 32       first FAT, then the second
//	then            clusters, from number 2, which is the root directory
//
// The reader takes any well-formed FAT32 file system with 512-byte sectors; long names are
// skipped, their 8.3 names count. Every chain is bounded by the size of the file system, so
// a loop ends in an error.
package fat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// ErrNotExist means that there is no such file.
var ErrNotExist = errors.New("file does not exist")

// File is a file to write. Name is a path with "/", each part an 8.3 name in capitals.
type File struct {
	Name string
	Data []byte
}

// Volume is a file system to write.
type Volume struct {
	Label       string // at most 11 characters
	Serial      uint32
	ClusterSize int    // bytes, 512 to 32768
	Hidden      uint32 // sectors before the file system on the disk
	Files       []File
}

// Entry is one file found. Offset is its first byte from the start of the file system, -1
// for an empty file; Contiguous tells whether all its bytes follow there.
type Entry struct {
	Name       string
	Size       int64
	Offset     int64
	Contiguous bool
}

const (
	sector   = 512
	reserved = 32
	date     = 1<<5 | 1 // 1980-01-01
	eoc      = 0x0fffffff
	minFAT32 = 65525 // clusters; with fewer it would be read as FAT16
)

const (
	attrVolume = 0x08
	attrDir    = 0x10
	attrLong   = 0x0f
	attrFile   = 0x20
)

// node is a directory or file on its way to the medium.
type node struct {
	name     string
	short    [11]byte
	data     []byte
	dir      bool
	parent   *node // nil for the root
	children []*node
	first    uint32 // cluster, 0 for an empty file
}

// Write writes a file system of size bytes. Space that is not used is not written: w must
// read as zero there.
func Write(w io.WriterAt, size int64, v Volume) error {
	spc := v.ClusterSize / sector
	if v.ClusterSize%sector != 0 || spc < 1 || spc > 64 || spc&(spc-1) != 0 {
		return fmt.Errorf("fat: clusters of %d bytes", v.ClusterSize)
	}
	total := size / sector
	if size%sector != 0 || total > 1<<32-1 {
		return fmt.Errorf("fat: a file system of %d bytes", size)
	}
	// The smallest FAT that has an entry for every cluster that is left beside both FATs.
	var fatSec, clusters int64
	for fatSec = 1; ; fatSec++ {
		clusters = (total - reserved - 2*fatSec) / int64(spc)
		if (clusters+2)*4 <= fatSec*sector {
			break
		}
	}
	if clusters < minFAT32 {
		return fmt.Errorf("fat: %d clusters, FAT32 needs %d: smaller clusters or a larger partition", clusters, minFAT32)
	}
	root, err := tree(v.Files)
	if err != nil {
		return err
	}
	label, err := labelName(v.Label)
	if err != nil {
		return err
	}

	// Give clusters: directories in front, then the files as they were given.
	table := []uint32{0x0ffffff8, eoc}
	next := uint32(2)
	place := func(n int64) uint32 {
		c := (n + int64(v.ClusterSize) - 1) / int64(v.ClusterSize)
		if c == 0 {
			return 0
		}
		first := next
		for i := int64(1); i < c; i++ {
			table = append(table, first+uint32(i))
		}
		table = append(table, eoc)
		next += uint32(c)
		return first
	}
	var dirs, files []*node
	var walk func(n *node)
	walk = func(n *node) {
		dirs = append(dirs, n)
		entries := len(n.children) + 2 // "." and ".."; in the root the label
		n.first = place(int64(entries) * 32)
		for _, c := range n.children {
			if c.dir {
				walk(c)
			}
		}
	}
	walk(root)
	byName := map[string]*node{}
	for _, d := range dirs {
		for _, c := range d.children {
			byName[c.name] = c
		}
	}
	for _, f := range v.Files {
		n := byName[f.Name]
		if int64(next)-2+int64(len(n.data))/int64(v.ClusterSize)+1 > clusters {
			return fmt.Errorf("fat: %s: no room: %d of %d clusters are used", f.Name, next-2, clusters)
		}
		n.first = place(int64(len(n.data)))
		files = append(files, n)
	}

	le := binary.LittleEndian
	b := make([]byte, sector)
	copy(b, []byte{0xeb, 0x58, 0x90})
	copy(b[3:], "ARMARIUM")
	le.PutUint16(b[11:], sector)
	b[13] = byte(spc)
	le.PutUint16(b[14:], reserved)
	b[16] = 2
	b[21] = 0xf8
	le.PutUint16(b[24:], 63)
	le.PutUint16(b[26:], 255)
	le.PutUint32(b[28:], v.Hidden)
	le.PutUint32(b[32:], uint32(total))
	le.PutUint32(b[36:], uint32(fatSec))
	le.PutUint32(b[44:], 2) // root directory
	le.PutUint16(b[48:], 1) // free cluster information
	le.PutUint16(b[50:], 6) // copy of the boot sector
	b[64] = 0x80
	b[66] = 0x29
	le.PutUint32(b[67:], v.Serial)
	copy(b[71:], label[:])
	copy(b[82:], "FAT32   ")
	copy(b[90:], []byte{0xf4, 0xeb, 0xfd}) // halt: the medium is not started from here
	b[510], b[511] = 0x55, 0xaa
	info := make([]byte, sector)
	copy(info, "RRaA")
	copy(info[484:], "rrAa")
	le.PutUint32(info[488:], uint32(clusters)-(next-2))
	le.PutUint32(info[492:], next)
	info[510], info[511] = 0x55, 0xaa
	fatBytes := make([]byte, 4*len(table))
	for i, c := range table {
		le.PutUint32(fatBytes[4*i:], c)
	}
	data := (reserved + 2*fatSec) * sector
	at := func(c uint32) int64 { return data + int64(c-2)*int64(v.ClusterSize) }
	write := func(p []byte, off int64) {
		if err == nil && len(p) > 0 {
			_, err = w.WriteAt(p, off)
		}
	}
	for _, off := range []int64{0, 6 * sector} {
		write(b, off)
		write(info, off+sector)
	}
	write(fatBytes, reserved*sector)
	write(fatBytes, (reserved+fatSec)*sector)
	for _, d := range dirs {
		write(d.bytes(label), at(d.first))
	}
	for _, f := range files {
		write(f.data, at(max(f.first, 2)))
	}
	if err != nil {
		return fmt.Errorf("fat: %w", err)
	}
	return nil
}

// tree makes the directories of the files.
func tree(files []File) (*node, error) {
	root := &node{dir: true}
	known := map[string]*node{"": root}
	for _, f := range files {
		parent, path := root, ""
		parts := strings.Split(f.Name, "/")
		for i, part := range parts {
			short, err := shortName(part)
			if err != nil {
				return nil, fmt.Errorf("fat: %q: %w", f.Name, err)
			}
			path = strings.TrimPrefix(path+"/"+part, "/")
			leaf := i == len(parts)-1
			n := known[path]
			if n != nil && (leaf || !n.dir) {
				return nil, fmt.Errorf("fat: %q: name is taken", f.Name)
			}
			if n == nil {
				n = &node{name: path, short: short, dir: !leaf, parent: parent}
				if leaf {
					if int64(len(f.Data)) > 1<<32-1 {
						return nil, fmt.Errorf("fat: %q: file is too large", f.Name)
					}
					n.data = f.Data
				}
				known[path] = n
				parent.children = append(parent.children, n)
			}
			parent = n
		}
	}
	for _, n := range known {
		sort.Slice(n.children, func(i, j int) bool { return n.children[i].name < n.children[j].name })
	}
	return root, nil
}

// bytes makes the content of a directory; the rest of its last cluster is zero. The ".." of
// a directory just below the root has cluster 0 (FAT specification, "Directory structure").
func (n *node) bytes(label [11]byte) []byte {
	var b []byte
	if n.parent == nil {
		b = append(b, dirEntry(label, attrVolume, 0, 0)...)
	} else {
		up := n.parent.first
		if n.parent.parent == nil {
			up = 0
		}
		b = append(b, dirEntry([11]byte([]byte(".          ")), attrDir, n.first, 0)...)
		b = append(b, dirEntry([11]byte([]byte("..         ")), attrDir, up, 0)...)
	}
	for _, c := range n.children {
		if c.dir {
			b = append(b, dirEntry(c.short, attrDir, c.first, 0)...)
		} else {
			b = append(b, dirEntry(c.short, attrFile, c.first, uint32(len(c.data)))...)
		}
	}
	return b
}

func dirEntry(name [11]byte, attr byte, cluster, size uint32) []byte {
	le := binary.LittleEndian
	b := make([]byte, 32)
	copy(b, name[:])
	b[11] = attr
	le.PutUint16(b[16:], date)
	le.PutUint16(b[18:], date)
	le.PutUint16(b[20:], uint16(cluster>>16))
	le.PutUint16(b[24:], date)
	le.PutUint16(b[26:], uint16(cluster))
	le.PutUint32(b[28:], size)
	return b
}

const allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-~$"

func shortName(s string) (n [11]byte, err error) {
	for i := range n {
		n[i] = ' '
	}
	base, ext, _ := strings.Cut(s, ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || strings.HasSuffix(s, ".") ||
		strings.Contains(ext, ".") {
		return n, fmt.Errorf("%q is not an 8.3 name in capitals", s)
	}
	for _, c := range []byte(base + ext) {
		if strings.IndexByte(allowed, c) < 0 {
			return n, fmt.Errorf("%q is not an 8.3 name in capitals", s)
		}
	}
	copy(n[:], base)
	copy(n[8:], ext)
	return n, nil
}

func labelName(s string) (n [11]byte, err error) {
	for i := range n {
		n[i] = ' '
	}
	if s == "" || len(s) > 11 {
		return n, fmt.Errorf("fat: label %q", s)
	}
	copy(n[:], s)
	return n, nil
}
