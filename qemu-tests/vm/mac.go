package vm

import (
	"crypto/rand"
	"fmt"
)

// randomMAC makes a hardware address in QEMU's own range.
func randomMAC() string {
	var b [3]byte
	rand.Read(b[:]) // never fails
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
}
