package disks

import (
	"crypto/rand"
	"fmt"

	"armarium/image/gpt"
)

// newGUID makes a random GUID of version 4 (RFC 9562 section 5.4).
func newGUID() (gpt.GUID, error) {
	var b [16]byte
	rand.Read(b[:])
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return gpt.ParseGUID(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]))
}
