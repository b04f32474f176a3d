// Package gpt reads and writes GUID partition tables (UEFI specification, chapter 5).
//
//	LBA 0        protective MBR: one partition of type 0xEE over the whole disk
//	LBA 1        header, 92 bytes, with a CRC-32 of itself and of the entries
//	LBA 2..      128 entries of 128 bytes
//	end-32..     backup of the entries
//	end          backup header
//
// Reading is strict where a mistake could name wrong sectors: both checksums must be right,
// partitions must lie inside the usable range, in order and apart. The primary table is
// taken when it is good, else the backup in the last sector.
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sort"
	"strings"
	"unicode/utf16"
)

// ErrNoTable means that the disk has no GUID partition table, or none that is right.
var ErrNoTable = errors.New("no GUID partition table")

// GUID is a GUID as it lies on the disk: the first three groups little-endian.
type GUID [16]byte

// ParseGUID reads "c12a7328-f81f-11d2-ba4b-00a0c93ec93b", in any case.
func ParseGUID(s string) (GUID, error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return GUID{}, fmt.Errorf("%q is not a GUID", s)
	}
	return swapGUID(GUID(b)), nil
}

// String gives the text form in lower case.
func (g GUID) String() string {
	b := swapGUID(g)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func swapGUID(g GUID) GUID {
	g[0], g[1], g[2], g[3] = g[3], g[2], g[1], g[0]
	g[4], g[5] = g[5], g[4]
	g[6], g[7] = g[7], g[6]
	return g
}

// Partition is one used entry of a table.
type Partition struct {
	Number       int // index in the table from 1; on writing 0 means "its place in Partitions"
	Type, Unique GUID
	First, Last  uint64 // LBA, both inclusive
	Attributes   uint64
	Name         string // at most 36 UTF-16 units
}

// Table is a partition table.
type Table struct {
	Disk                    GUID
	SectorSize              int    // bytes: 512, or 4096; 0 means 512 on writing
	FirstUsable, LastUsable uint64 // LBA; filled by Read, and by Write when both are 0
	Partitions              []Partition
	Active                  bool // the protective MBR's partition is marked active: some BIOSes start no other disk
	FromBackup              bool // Read: the primary table was bad
}

// Offset is the first byte of a partition of this table.
func (t *Table) Offset(p Partition) int64 { return int64(p.First) * int64(t.SectorSize) }

// Size is the length in bytes of a partition of this table.
func (t *Table) Size(p Partition) int64 {
	return int64(p.Last-p.First+1) * int64(t.SectorSize)
}

// Find returns the first partition of a type.
func (t *Table) Find(typ GUID) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.Type == typ {
			return p, true
		}
	}
	return Partition{}, false
}

const (
	entries   = 128
	entrySize = 128
	headSize  = 92
	// Entries and their size come from the disk; these are the most that is read.
	maxEntries   = 1024
	maxEntrySize = 4096
	maxEntryLen  = 1 << 20 // bytes
)

var signature = []byte("EFI PART")

// Read reads the table of a disk of size bytes. It tries sectors of 512 and of 4096 bytes.
// The error wraps ErrNoTable when there is none; errors of r come through as they are.
func Read(r io.ReaderAt, size int64) (*Table, error) {
	why := error(ErrNoTable)
	for _, ss := range []int64{512, 4096} {
		if size < 3*ss {
			continue
		}
		last := uint64(size/ss) - 1
		for _, lba := range []uint64{1, last} {
			t, err := readAt(r, ss, lba, last)
			if err == nil {
				t.FromBackup = lba != 1
				return t, nil
			}
			var bad *badTable
			if !errors.As(err, &bad) {
				return nil, err
			}
			if bad.signed {
				why = fmt.Errorf("%w: LBA %d: %s", ErrNoTable, lba, bad.msg)
			}
		}
	}
	return nil, why
}

// badTable is what is wrong with the bytes of a table; signed: it claims to be one.
type badTable struct {
	signed bool
	msg    string
}

func (b *badTable) Error() string { return b.msg }

func readAt(r io.ReaderAt, ss int64, lba, last uint64) (*Table, error) {
	h := make([]byte, ss)
	if _, err := r.ReadAt(h, int64(lba)*ss); err != nil {
		return nil, fmt.Errorf("read partition table at LBA %d: %w", lba, err)
	}
	if string(h[:8]) != string(signature) {
		return nil, &badTable{}
	}
	bad := func(format string, a ...any) error { return &badTable{true, fmt.Sprintf(format, a...)} }
	le := binary.LittleEndian
	n := le.Uint32(h[12:])
	if n < headSize || int64(n) > ss {
		return nil, bad("header of %d bytes", n)
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:n]) != sum {
		return nil, bad("header checksum is wrong")
	}
	if my := le.Uint64(h[24:]); my != lba {
		return nil, bad("header says it lies at LBA %d", my)
	}
	t := &Table{SectorSize: int(ss), FirstUsable: le.Uint64(h[40:]), LastUsable: le.Uint64(h[48:])}
	copy(t.Disk[:], h[56:72])
	if t.FirstUsable > t.LastUsable || t.LastUsable > last {
		return nil, bad("usable range %d to %d on a disk of %d sectors", t.FirstUsable, t.LastUsable, last+1)
	}
	at, num, each := le.Uint64(h[72:]), le.Uint32(h[80:]), le.Uint32(h[84:])
	if num > maxEntries || each < entrySize || each > maxEntrySize || num*each > maxEntryLen || at > last {
		return nil, bad("%d entries of %d bytes at LBA %d", num, each, at)
	}
	e := make([]byte, num*each)
	if _, err := r.ReadAt(e, int64(at)*ss); err != nil {
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, bad("entries reach past the end of the disk")
		}
		return nil, fmt.Errorf("read partition entries at LBA %d: %w", at, err)
	}
	if crc32.ChecksumIEEE(e) != le.Uint32(h[88:]) {
		return nil, bad("checksum of the entries is wrong")
	}
	for i := range int(num) {
		b := e[i*int(each):][:entrySize]
		var p Partition
		copy(p.Type[:], b)
		if p.Type == (GUID{}) {
			continue
		}
		copy(p.Unique[:], b[16:])
		p.Number = i + 1
		p.First, p.Last, p.Attributes = le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:])
		p.Name = name(b[56:128])
		t.Partitions = append(t.Partitions, p)
	}
	if err := t.check(); err != nil {
		return nil, bad("%v", err)
	}
	return t, nil
}

func name(b []byte) string {
	u := make([]uint16, 0, 36)
	for i := 0; i+1 < len(b); i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// check tells whether the partitions lie in the usable range and apart.
func (t *Table) check() error {
	s := append([]Partition(nil), t.Partitions...)
	sort.Slice(s, func(i, j int) bool { return s[i].First < s[j].First })
	for i, p := range s {
		if p.First > p.Last || p.First < t.FirstUsable || p.Last > t.LastUsable {
			return fmt.Errorf("partition %d, LBA %d to %d, is outside the usable range %d to %d",
				p.Number, p.First, p.Last, t.FirstUsable, t.LastUsable)
		}
		if i > 0 && s[i-1].Last >= p.First {
			return fmt.Errorf("partitions %d and %d overlap", s[i-1].Number, p.Number)
		}
	}
	return nil
}

// Usable returns the usable range of a new table on a disk of size bytes: what Write uses.
func Usable(size int64, sectorSize int) (first, last uint64) {
	room := uint64(entries * entrySize / sectorSize) // sectors of the entries
	return 2 + room, uint64(size)/uint64(sectorSize) - 2 - room
}

// Write writes protective MBR, primary and backup table to a disk of size bytes. Bytes 0 to
// 439 of the disk, a BIOS loader's, are left as they are.
func Write(w io.WriterAt, size int64, t *Table) error {
	tt := *t
	if tt.SectorSize == 0 {
		tt.SectorSize = 512
	}
	if tt.SectorSize != 512 && tt.SectorSize != 4096 {
		return fmt.Errorf("partition table: sectors of %d bytes", tt.SectorSize)
	}
	ss := int64(tt.SectorSize)
	room := int64(entries * entrySize / tt.SectorSize)
	if size%ss != 0 || size/ss < 4+2*room {
		return fmt.Errorf("partition table: a disk of %d bytes has no room for one", size)
	}
	last := uint64(size/ss) - 1
	lo, hi := Usable(size, tt.SectorSize)
	if tt.FirstUsable == 0 && tt.LastUsable == 0 {
		tt.FirstUsable, tt.LastUsable = lo, hi
	}
	if tt.FirstUsable < lo || tt.LastUsable > hi || tt.FirstUsable > tt.LastUsable {
		return fmt.Errorf("partition table: usable range %d to %d, must lie in %d to %d", tt.FirstUsable, tt.LastUsable, lo, hi)
	}
	tt.Partitions = append([]Partition(nil), t.Partitions...)
	le := binary.LittleEndian
	e := make([]byte, entries*entrySize)
	for i := range tt.Partitions {
		p := &tt.Partitions[i]
		if p.Number == 0 {
			p.Number = i + 1
		}
		if p.Number < 1 || p.Number > entries {
			return fmt.Errorf("partition table: no partition number %d", p.Number)
		}
		b := e[(p.Number-1)*entrySize:][:entrySize]
		if p.Type == (GUID{}) || le.Uint64(b) != 0 || le.Uint64(b[8:]) != 0 {
			return fmt.Errorf("partition table: partition %d has no type, or its number is taken", p.Number)
		}
		copy(b, p.Type[:])
		copy(b[16:], p.Unique[:])
		le.PutUint64(b[32:], p.First)
		le.PutUint64(b[40:], p.Last)
		le.PutUint64(b[48:], p.Attributes)
		u := utf16.Encode([]rune(p.Name))
		if len(u) > 36 {
			return fmt.Errorf("partition table: name %q is longer than 36 characters", p.Name)
		}
		for j, c := range u {
			le.PutUint16(b[56+2*j:], c)
		}
	}
	if err := tt.check(); err != nil {
		return fmt.Errorf("partition table: %w", err)
	}
	mbr := make([]byte, 512)
	m := mbr[446:]
	if tt.Active {
		m[0] = 0x80
	}
	copy(m[1:], []byte{0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	le.PutUint32(m[8:], 1)
	le.PutUint32(m[12:], uint32(min(last, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
	for _, part := range []struct {
		off int64
		b   []byte
	}{
		// The backup first: a write that breaks off leaves either the old table or one
		// good copy of the new.
		{int64(last-uint64(room)) * ss, e},
		{int64(last) * ss, tt.header(last, 1, last-uint64(room), e)},
		{2 * ss, e},
		{ss, tt.header(1, last, 2, e)},
		{440, mbr[440:]},
	} {
		if _, err := w.WriteAt(part.b, part.off); err != nil {
			return fmt.Errorf("write partition table at byte %d: %w", part.off, err)
		}
	}
	return nil
}

// header makes the header for LBA my:
//
//	offset  size  field
//	     0     8  "EFI PART"
//	     8     4  revision 1.0
//	    12     4  header size, 92
//	    16     4  CRC-32 of the header with this field 0
//	    24     8  this LBA
//	    32     8  LBA of the other header
//	    40    16  first and last usable LBA
//	    56    16  disk GUID
//	    72     8  LBA of the entries
//	    80     8  number and size of the entries
//	    88     4  CRC-32 of the entries
func (t *Table) header(my, other, at uint64, e []byte) []byte {
	le := binary.LittleEndian
	h := make([]byte, t.SectorSize)
	copy(h, signature)
	le.PutUint32(h[8:], 0x00010000)
	le.PutUint32(h[12:], headSize)
	le.PutUint64(h[24:], my)
	le.PutUint64(h[32:], other)
	le.PutUint64(h[40:], t.FirstUsable)
	le.PutUint64(h[48:], t.LastUsable)
	copy(h[56:], t.Disk[:])
	le.PutUint64(h[72:], at)
	le.PutUint32(h[80:], entries)
	le.PutUint32(h[84:], entrySize)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(e))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:headSize]))
	return h
}
