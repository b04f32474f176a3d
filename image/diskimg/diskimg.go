// Package diskimg is a disk image as its partitions and files (appliance.md 3).
//
// Build makes a generic image: partition table, the system partition with its files and
// their manifest, two empty slots. Open reads one again; the slots are what `armarium image
// configure` writes. The file is sparse where the file system allows it.
//
// Everything outside the two slots of a built image is never changed by this package.
package diskimg

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"armarium/image/fat"
	"armarium/image/gpt"
	"armarium/image/layout"
)

// ErrNoImage means that a file is no image of this project.
var ErrNoImage = errors.New("not an Armarium disk image")

// File is one file of the system partition. Name uses "/" and 8.3 names in capitals.
type File = fat.File

// Parts is what an image is made of. Manifest.Files is filled by Build.
type Parts struct {
	Manifest layout.Manifest
	Files    []File // without the manifest
}

// Output is where Build writes: an *os.File just created or truncated.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// Build writes a generic image of layout.ImageSize bytes. The same parts give the same
// bytes.
func Build(w Output, p Parts) error {
	id := p.Manifest.ImageID
	files := append([]File(nil), p.Files...)
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	m := p.Manifest
	m.Layout = layout.Version
	m.Files = nil
	for _, f := range files {
		sum := sha256.Sum256(f.Data)
		m.Files = append(m.Files, layout.ManifestFile{Name: f.Name, Size: int64(len(f.Data)), SHA256: hex.EncodeToString(sum[:])})
	}
	mb, err := m.Encode()
	if err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	if _, err := layout.ParseManifest(mb); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	files = append(files, File{Name: layout.ManifestName, Data: mb})

	// Truncated to nothing first: what is not written reads as zero.
	if err := w.Truncate(0); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	if err := w.Truncate(layout.ImageSize); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	t := &gpt.Table{SectorSize: layout.Sector, Active: true}
	if t.Disk, err = gpt.ParseGUID(layout.UniqueGUID(id, "disk")); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	for _, lp := range layout.Partitions() {
		gp := gpt.Partition{Number: lp.Number, Name: lp.Name, First: uint64(lp.First), Last: uint64(lp.First + lp.Sectors - 1)}
		if gp.Type, err = gpt.ParseGUID(lp.Type); err != nil {
			return fmt.Errorf("build image: %w", err)
		}
		if gp.Unique, err = gpt.ParseGUID(layout.UniqueGUID(id, lp.Name)); err != nil {
			return fmt.Errorf("build image: %w", err)
		}
		t.Partitions = append(t.Partitions, gp)
	}
	if err := gpt.Write(w, layout.ImageSize, t); err != nil {
		return fmt.Errorf("build image: %w", err)
	}
	sys := layout.Partitions()[layout.System-1]
	err = fat.Write(io.NewOffsetWriter(w, sys.Offset()), sys.Size(), fat.Volume{
		Label:       layout.Label,
		Serial:      layout.VolumeSerial(id),
		ClusterSize: layout.ClusterSize,
		Hidden:      uint32(sys.First),
		Files:       files,
	})
	if err != nil {
		return fmt.Errorf("build image: system partition: %w", err)
	}
	return nil
}

// Image is an open image file or stick.
type Image struct {
	path string
	f    *os.File
	t    *gpt.Table
	fs   *fat.FS
	conf int64 // first byte of the configuration partition
}

// Open opens an image file, or a stick's device, for reading and checks its geometry. The
// error wraps ErrNoImage when it is something else.
func Open(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	im := &Image{path: path, f: f}
	if err := im.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("open image %s: %w", path, err)
	}
	return im, nil
}

func (im *Image) read() error {
	size, err := im.f.Seek(0, io.SeekEnd) // a device has no size in its Stat
	if err != nil {
		return err
	}
	if im.t, err = gpt.Read(im.f, size); err != nil {
		if errors.Is(err, gpt.ErrNoTable) {
			return fmt.Errorf("%w: %w", ErrNoImage, err)
		}
		return err
	}
	for _, lp := range layout.Partitions() {
		typ, err := gpt.ParseGUID(lp.Type)
		if err != nil {
			return err
		}
		p, ok := im.t.Find(typ)
		if !ok || im.t.Offset(p) != lp.Offset() || im.t.Size(p) != lp.Size() || p.Number != lp.Number {
			return fmt.Errorf("%w: partition %d (%s) is not where layout %d has it", ErrNoImage, lp.Number, lp.Name, layout.Version)
		}
	}
	parts := layout.Partitions()
	sys := parts[layout.System-1]
	im.conf = parts[layout.Config-1].Offset()
	if im.fs, err = fat.Open(io.NewSectionReader(im.f, sys.Offset(), sys.Size())); err != nil {
		return fmt.Errorf("system partition: %w", err)
	}
	return nil
}

// Close closes the file.
func (im *Image) Close() error { return im.f.Close() }

// Table is the partition table.
func (im *Image) Table() *gpt.Table { return im.t }

// Manifest reads the manifest of the system partition.
func (im *Image) Manifest() (layout.Manifest, error) {
	b, err := im.fs.ReadFile(layout.ManifestName, layout.MaxManifest)
	if err != nil {
		return layout.Manifest{}, fmt.Errorf("%s: %w", im.path, err)
	}
	m, err := layout.ParseManifest(b)
	if err != nil {
		return layout.Manifest{}, fmt.Errorf("%s: %w", im.path, err)
	}
	return m, nil
}

// Verify compares every file of the system partition with the manifest.
func (im *Image) Verify() error {
	m, err := im.Manifest()
	if err != nil {
		return err
	}
	have := map[string]bool{layout.ManifestName: true}
	for _, f := range m.Files {
		have[f.Name] = true
		b, err := im.ReadFile(f.Name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		if int64(len(b)) != f.Size || hex.EncodeToString(sum[:]) != f.SHA256 {
			return fmt.Errorf("%s: %s differs from the manifest", im.path, f.Name)
		}
	}
	for _, e := range im.fs.Files() {
		if !have[e.Name] {
			return fmt.Errorf("%s: %s is not in the manifest", im.path, e.Name)
		}
	}
	return nil
}

// Files lists the files of the system partition, sorted by name. Offset counts from the
// start of the partition.
func (im *Image) Files() []fat.Entry { return im.fs.Files() }

// ReadFile reads one file of the system partition.
func (im *Image) ReadFile(name string) ([]byte, error) {
	b, err := im.fs.ReadFile(name, layout.Partitions()[layout.System-1].Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", im.path, err)
	}
	return b, nil
}

// ReadSlot reads slot i, 0 or 1, whole: layout.SlotSize bytes.
func (im *Image) ReadSlot(i int) ([]byte, error) {
	off, err := im.slot(i)
	if err != nil {
		return nil, err
	}
	b := make([]byte, layout.SlotSize)
	if _, err := im.f.ReadAt(b, off); err != nil {
		return nil, fmt.Errorf("read slot %d of %s: %w", i, im.path, err)
	}
	return b, nil
}

// WriteSlot writes slot i, padded with zeros, flushes it and reads it back. It opens the
// file for writing itself: an Image that is only looked at cannot change.
func (im *Image) WriteSlot(i int, b []byte) error {
	off, err := im.slot(i)
	if err != nil {
		return err
	}
	if len(b) > layout.SlotSize {
		return fmt.Errorf("write slot %d of %s: %d bytes, a slot has %d", i, im.path, len(b), layout.SlotSize)
	}
	full := make([]byte, layout.SlotSize)
	copy(full, b)
	w, err := os.OpenFile(im.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("write slot %d: %w", i, err)
	}
	_, err = w.WriteAt(full, off)
	if e := w.Sync(); err == nil {
		err = e
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write slot %d of %s: %w", i, im.path, err)
	}
	back, err := im.ReadSlot(i)
	if err != nil {
		return err
	}
	if !bytes.Equal(back, full) {
		return fmt.Errorf("slot %d of %s reads back differently than written: use another stick", i, im.path)
	}
	return nil
}

func (im *Image) slot(i int) (int64, error) {
	if i < 0 || i >= layout.Slots {
		return 0, fmt.Errorf("%s: no slot %d", im.path, i)
	}
	return im.conf + int64(i)*layout.SlotSize, nil
}
