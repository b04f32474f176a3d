// Package uki makes a unified kernel image: the EFI stub of systemd-boot with kernel,
// initramfs and command line as further sections of the same PE file (Unified Kernel Image
// specification of the UAPI group; PE/COFF specification, chapters 3 and 4).
//
//	.osrel    os-release text            .cmdline  kernel command line
//	.uname    kernel release             .initrd   initramfs
//	.linux    the kernel, last: it may be unpacked into what follows
//
// Every added section begins at a multiple of 512 bytes in the file, so that a loader that
// knows only sectors can take kernel and initramfs out of it.
package uki

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Section is one section of a PE file.
type Section struct {
	Name   string
	Data   []byte // what to write; Parse leaves it nil
	Offset int64  // in the file; found by Parse
	Size   int64  // bytes without padding; found by Parse
}

// Sizes and offsets of PE/COFF.
const (
	fileHeader    = 20
	sectionHeader = 40
	optMagicPlus  = 0x20b
	maxSections   = 96
	alignFile     = 512
	flagsData     = 0x40000040 // initialised data, readable
)

// program is where the parts of a PE file lie.
type program struct {
	coff, opt, table int // offsets
	sections         int
	alignFile        uint32
	alignSection     uint32
	headers          uint32 // bytes for headers, as the file says
	imageSize        uint32
	end              uint32 // first free address
	firstRaw         uint32 // first byte of the first section in the file
}

var errNoPE = errors.New("not a PE32+ program for x86-64")

func parse(b []byte) (*program, error) {
	le := binary.LittleEndian
	if len(b) < 64 || b[0] != 'M' || b[1] != 'Z' {
		return nil, errNoPE
	}
	at := int64(le.Uint32(b[60:]))
	if at+4+fileHeader+112 > int64(len(b)) || string(b[at:at+4]) != "PE\x00\x00" {
		return nil, errNoPE
	}
	p := &program{coff: int(at) + 4}
	p.opt = p.coff + fileHeader
	optSize := int(le.Uint16(b[p.coff+16:]))
	p.table = p.opt + optSize
	p.sections = int(le.Uint16(b[p.coff+2:]))
	if le.Uint16(b[p.coff:]) != 0x8664 || optSize < 112 || le.Uint16(b[p.opt:]) != optMagicPlus {
		return nil, errNoPE
	}
	if p.sections > maxSections || p.table+p.sections*sectionHeader > len(b) {
		return nil, fmt.Errorf("PE file with %d sections does not fit in its %d bytes", p.sections, len(b))
	}
	p.alignSection = le.Uint32(b[p.opt+32:])
	p.alignFile = le.Uint32(b[p.opt+36:])
	p.imageSize = le.Uint32(b[p.opt+56:])
	p.headers = le.Uint32(b[p.opt+60:])
	p.firstRaw = p.headers
	for i := range p.sections {
		s := b[p.table+i*sectionHeader:][:sectionHeader]
		vsize, addr, rsize, raw := le.Uint32(s[8:]), le.Uint32(s[12:]), le.Uint32(s[16:]), le.Uint32(s[20:])
		if int64(raw)+int64(rsize) > int64(len(b)) || uint64(addr)+uint64(vsize) > 1<<31 {
			return nil, fmt.Errorf("section %d of the PE file lies outside of it", i+1)
		}
		p.end = max(p.end, addr+max(vsize, rsize))
		if rsize > 0 {
			p.firstRaw = min(p.firstRaw, raw)
		}
	}
	return p, nil
}

// Build puts sections into a stub, in the given order. Time stamp and checksum are zero.
func Build(stub []byte, sections []Section) ([]byte, error) {
	p, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("EFI stub: %w", err)
	}
	n := p.sections + len(sections)
	if end := p.table + n*sectionHeader; end > int(min(p.headers, p.firstRaw)) || n > maxSections {
		room := (int(min(p.headers, p.firstRaw)) - p.table) / sectionHeader
		return nil, fmt.Errorf("EFI stub: room for %d sections in its header, %d are there and %d more wanted",
			room, p.sections, len(sections))
	}
	le := binary.LittleEndian
	out := pad(append([]byte(nil), stub...), alignFile)
	// Firmware maps pages of 4 KiB: sections that shared one could not have their own rights.
	step := max(p.alignSection, 4096)
	addr := align(p.end, step)
	seen := map[string]bool{}
	data := le.Uint32(out[p.opt+8:])
	for i, s := range sections {
		if len(s.Name) > 8 || s.Name == "" || seen[s.Name] || len(s.Data) == 0 {
			return nil, fmt.Errorf("section %q: empty, there twice, or its name is longer than 8 bytes", s.Name)
		}
		if int64(addr)+int64(len(s.Data)) > 1<<30 {
			return nil, fmt.Errorf("section %q: the image would be larger than 1 GiB", s.Name)
		}
		seen[s.Name] = true
		h := out[p.table+(p.sections+i)*sectionHeader:][:sectionHeader]
		for _, c := range h {
			if c != 0 {
				return nil, errors.New("EFI stub: something lies behind its section table")
			}
		}
		raw := align(uint32(len(s.Data)), alignFile)
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Data)))
		le.PutUint32(h[12:], addr)
		le.PutUint32(h[16:], raw)
		le.PutUint32(h[20:], uint32(len(out)))
		le.PutUint32(h[36:], flagsData)
		out = pad(append(out, s.Data...), alignFile)
		addr = align(addr+uint32(len(s.Data)), step)
		data += raw
	}
	le.PutUint16(out[p.coff+2:], uint16(n))
	le.PutUint32(out[p.coff+4:], 0) // time
	le.PutUint32(out[p.opt+8:], data)
	le.PutUint32(out[p.opt+56:], align(addr, step))
	le.PutUint32(out[p.opt+64:], 0) // checksum: firmware does not look at it
	return out, nil
}

// Parse lists the sections of a PE file and where their bytes lie.
func Parse(b []byte) ([]Section, error) {
	p, err := parse(b)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	var out []Section
	for i := range p.sections {
		s := b[p.table+i*sectionHeader:][:sectionHeader]
		name := s[:8]
		for len(name) > 0 && name[len(name)-1] == 0 {
			name = name[:len(name)-1]
		}
		size := min(le.Uint32(s[8:]), le.Uint32(s[16:]))
		out = append(out, Section{Name: string(name), Offset: int64(le.Uint32(s[20:])), Size: int64(size)})
	}
	return out, nil
}

func align(n, to uint32) uint32 { return (n + to - 1) / to * to }

func pad(b []byte, to int) []byte {
	if rest := len(b) % to; rest != 0 {
		b = append(b, make([]byte, to-rest)...)
	}
	return b
}
