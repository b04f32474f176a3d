package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"strings"
	"testing"
)

// stub makes a PE32+ program with one section of code and room for headers up to 1 KiB.
func stub(sections int) []byte {
	le := binary.LittleEndian
	b := make([]byte, 1024+700) // the end is at no multiple of 512
	copy(b, "MZ")
	le.PutUint32(b[60:], 64)
	copy(b[64:], "PE\x00\x00")
	coff := b[68:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], uint16(sections))
	le.PutUint32(coff[4:], 0x5f5e100)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(coff[18:], 0x22)
	opt := b[88:]
	le.PutUint16(opt, 0x20b)
	le.PutUint32(opt[32:], 4096) // section alignment
	le.PutUint32(opt[36:], 512)
	le.PutUint32(opt[56:], 0x3000)
	le.PutUint32(opt[60:], 1024)
	le.PutUint32(opt[108:], 16)
	for i := range sections {
		s := b[88+240+i*40:]
		copy(s, ".text")
		s[5] = byte('0' + i)
		le.PutUint32(s[8:], 600)
		le.PutUint32(s[12:], uint32(0x1000*(i+1)))
		le.PutUint32(s[16:], 700)
		le.PutUint32(s[20:], 1024)
	}
	return b
}

func example() []Section {
	return []Section{
		{Name: ".osrel", Data: []byte("ID=a")},
		{Name: ".cmdline", Data: []byte("quiet")},
		{Name: ".initrd", Data: bytes.Repeat([]byte("initrd"), 10000)},
		{Name: ".linux", Data: bytes.Repeat([]byte("linux"), 5000)},
	}
}

func TestBuild(t *testing.T) {
	img, err := Build(stub(2), example())
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(img))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.TimeDateStamp != 0 || len(f.Sections) != 6 || len(img)%512 != 0 {
		t.Errorf("time %d, %d sections, %d bytes", f.TimeDateStamp, len(f.Sections), len(img))
	}
	end := uint32(0)
	for _, s := range f.Sections {
		if s.VirtualAddress < end || s.VirtualAddress%4096 != 0 {
			t.Errorf("section %s at address %#x, the one before ends at %#x", s.Name, s.VirtualAddress, end)
		}
		end = s.VirtualAddress + s.VirtualSize
	}
	opt := f.OptionalHeader.(*pe.OptionalHeader64)
	if opt.SizeOfImage < end || opt.SizeOfImage%4096 != 0 || opt.CheckSum != 0 {
		t.Errorf("size of image %#x, sections end at %#x, checksum %d", opt.SizeOfImage, end, opt.CheckSum)
	}
	// Both readers and the bytes at the offset agree: a BIOS loader goes by these offsets.
	found, err := Parse(img)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range example() {
		s, p := f.Sections[2+i], found[2+i]
		got, err := s.Data()
		if err != nil || s.Name != want.Name || !bytes.Equal(got[:s.VirtualSize], want.Data) {
			t.Errorf("section %s: %v, %d bytes", s.Name, err, len(got))
		}
		if p.Name != want.Name || p.Offset != int64(s.Offset) || p.Offset%512 != 0 || !bytes.Equal(img[p.Offset:p.Offset+p.Size], want.Data) {
			t.Errorf("Parse finds %s at %d, %d bytes", p.Name, p.Offset, p.Size)
		}
	}
	again, err := Build(stub(2), example())
	if err != nil || !bytes.Equal(again, img) {
		t.Error("two builds differ")
	}
}

func TestBuildRefuses(t *testing.T) {
	behind := stub(2)
	behind[88+240+80] = 1
	many := make([]Section, 0, 20)
	for i := range 18 {
		many = append(many, Section{Name: ".s" + string(rune('a'+i)), Data: []byte("x")})
	}
	for _, c := range []struct {
		name     string
		stub     []byte
		sections []Section
		want     string
	}{
		{"no program", []byte("#!/bin/sh"), example(), "not a PE32+"},
		{"no room", stub(2), many, "room for 17 sections"},
		{"something behind the table", behind, example(), "behind its section table"},
		{"empty section", stub(1), []Section{{Name: ".linux"}}, "empty"},
		{"name twice", stub(1), append(example(), example()[0]), "twice"},
		{"long name", stub(1), []Section{{Name: ".commandl", Data: []byte("x")}}, "longer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Build(c.stub, c.sections); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add(stub(2))
	f.Add(stub(0))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := Parse(b)
		if err != nil {
			return
		}
		for _, s := range found {
			if s.Offset < 0 || s.Size < 0 || s.Offset+s.Size > int64(len(b)) {
				t.Errorf("section %+v lies outside of %d bytes", s, len(b))
			}
		}
		Build(b, example()) // must not panic
	})
}
