package disks

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"time"
)

// ErrNoExt4 says that a device has no ext2, ext3 or ext4 file system.
var ErrNoExt4 = errors.New("no ext4 file system")

// A Superblock is what is read of a file system without mounting it.
type Superblock struct {
	Label   string
	UUID    string // "0a1b2c3d-…", lower case
	Written time.Time
	Size    uint64 // bytes
	Clean   bool   // unmounted in order
}

const (
	superOffset = 1024
	superSize   = 1024

	stateClean       = 1
	featureRecover   = 0x4   // incompatible: the journal has to be replayed
	featureMetaCsum  = 0x400 // read-only compatible: checksums of metadata
	feature64Bit     = 0x80  // incompatible: block counts of 64 bits
	maxBlockSizeLog2 = 6     // 64 KiB
)

// ReadSuperblock reads the primary superblock of a device (ext4 documentation, "Super
// Block"). Fields are little endian, offsets within the superblock:
//
//	0x04  number of blocks, low half     0x60  incompatible features
//	0x18  log2(block size) - 10          0x64  read-only compatible features
//	0x30  time of last write             0x68  UUID, 16 bytes
//	0x38  magic 0xef53                   0x78  label, 16 bytes, zero padded
//	0x3a  state                          0x150 number of blocks, high half
//	0x274 time of last write, high byte  0x3fc CRC-32C of the bytes before
//
// The checksum is verified when the file system has them, so that random bytes are not
// taken for a label. The error wraps ErrNoExt4 when there is no such file system.
func ReadSuperblock(r io.ReaderAt) (Superblock, error) {
	b := make([]byte, superSize)
	if _, err := r.ReadAt(b, superOffset); err != nil {
		return Superblock{}, fmt.Errorf("read superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(b[0x38:]) != 0xef53 {
		return Superblock{}, ErrNoExt4
	}
	incompat, rocompat := le.Uint32(b[0x60:]), le.Uint32(b[0x64:])
	if rocompat&featureMetaCsum != 0 {
		// The kernel's CRC-32C starts with all ones and is not inverted at the end.
		if got := ^crc32.Checksum(b[:0x3fc], crc32.MakeTable(crc32.Castagnoli)); got != le.Uint32(b[0x3fc:]) {
			return Superblock{}, fmt.Errorf("%w: superblock checksum is wrong", ErrNoExt4)
		}
	}
	log := le.Uint32(b[0x18:])
	if log > maxBlockSizeLog2 {
		return Superblock{}, fmt.Errorf("%w: block size 2^%d", ErrNoExt4, uint64(log)+10)
	}
	blocks := uint64(le.Uint32(b[0x04:]))
	if incompat&feature64Bit != 0 {
		blocks |= uint64(le.Uint32(b[0x150:])) << 32
	}
	sb := Superblock{
		Label: strings.TrimRight(string(b[0x78:0x88]), "\x00"),
		UUID:  fmt.Sprintf("%x-%x-%x-%x-%x", b[0x68:0x6c], b[0x6c:0x6e], b[0x6e:0x70], b[0x70:0x72], b[0x72:0x78]),
		Size:  blocks << (10 + log),
		Clean: le.Uint16(b[0x3a:])&stateClean != 0 && incompat&featureRecover == 0,
	}
	if t := int64(le.Uint32(b[0x30:])) | int64(b[0x274])<<32; t > 0 {
		sb.Written = time.Unix(t, 0)
	}
	return sb, nil
}
