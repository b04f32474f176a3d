// Package layout says where things lie on the boot medium: partitions, slots, names, sizes
// (appliance.md 3.2). It is the one place for these constants; the geometry is frozen for
// the life of layout version 1, and later images replace partitions 1 and 2 only.
//
//	LBA       what
//	0         protective MBR
//	1..33     GPT
//	2048      partition 1 "bios":   1 MiB, kept for the BIOS loader
//	4096      partition 2 "system": 128 MiB, FAT32, the unified kernel image and its manifest
//	266240    partition 3 "config": 4 MiB, two raw slots of 2 MiB
//	276447    backup GPT, at the end of the image, also on a larger stick
//
// GUIDs are text in lower case, as gpt.GUID.String gives them. Types are constants; unique
// GUIDs and the FAT serial number are derived from the image id, so that two releases never
// share them.
package layout

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Version is the layout version of the medium and of the slots on it.
const Version = 1

// Sector is the size in bytes of a sector of the image.
const Sector = 512

// ImageSize is the size in bytes of an image, backup GPT included.
const ImageSize = 135 << 20

// MinStick is the size in bytes of the smallest stick that is supported.
const MinStick = 256_000_000

// Numbers of the partitions in the table, from 1.
const (
	BIOS   = 1
	System = 2
	Config = 3
)

// Partition types. ConfigType is the project's own: a block device with such a partition is
// a candidate for the stick (appliance.md 4.1).
const (
	BIOSType   = "21686148-6449-6e6f-744e-656564454649"
	SystemType = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	ConfigType = "b95f1c41-7c0e-4b0d-9a5c-3f6f2d1c8e27"
)

// Partition is the frozen place of one partition.
type Partition struct {
	Number  int
	Name    string
	Type    string // GUID
	First   int64  // LBA
	Sectors int64
}

// Offset is the first byte of the partition from the start of the medium.
func (p Partition) Offset() int64 { return p.First * Sector }

// Size is the length of the partition in bytes.
func (p Partition) Size() int64 { return p.Sectors * Sector }

// Partitions returns the partitions of layout version 1 in order.
func Partitions() []Partition {
	return []Partition{
		{BIOS, "bios", BIOSType, 2048, 1 << 20 / Sector},
		{System, "system", SystemType, 4096, 128 << 20 / Sector},
		{Config, "config", ConfigType, 266240, Slots * SlotSize / Sector},
	}
}

// Slots of the configuration partition (appliance.md 5.1): slot i begins at byte
// i*SlotSize of partition 3.
const (
	Slots     = 2
	SlotSize  = 2 << 20
	SlotMagic = "PRSVCFG1" // first bytes of a slot that was ever written
)

// The system partition.
const (
	Label        = "PRESERVE"             // FAT volume label
	ClusterSize  = 1 << 10                // bytes
	UKIName      = "EFI/BOOT/BOOTX64.EFI" // the unified kernel image
	ReadmeName   = "README.TXT"
	ManifestName = "MANIFEST.JSN"
	InfoPath     = "/etc/image.json" // of the initramfs, an Info
)

// IDParam is the word of the kernel command line that tells the running image id:
// "image.id=" and the id.
const IDParam = "image.id="

// CommandLine is the kernel's command line of an image (appliance.md 10): modules must be
// signed, a panic starts again after 10 s, freed memory is cleared. The last console= is
// /dev/console; PID 1 opens both itself.
func CommandLine(imageID string) string {
	return "lockdown=integrity module.sig_enforce=1 panic=10 oops=panic init_on_free=1 slab_nomerge" +
		" vsyscall=none quiet loglevel=4 console=ttyS0,115200 console=tty0 " + IDParam + imageID
}

// UniqueGUID derives a GUID from the image id; name is a partition's name, or "disk".
// It is marked as version 8 (RFC 9562 section 5.8).
func UniqueGUID(imageID, name string) string {
	h := sha256.Sum256([]byte("armarium guid\x00" + imageID + "\x00" + name))
	b := h[:16]
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// VolumeSerial derives the serial number of the FAT file system from the image id.
func VolumeSerial(imageID string) uint32 {
	h := sha256.Sum256([]byte("armarium fat\x00" + imageID))
	return binary.LittleEndian.Uint32(h[:])
}
