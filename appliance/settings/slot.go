package settings

import (
	"bytes"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Sizes of a slot, bytes (appliance.md 5.1).
const (
	SlotSize   = 2 << 20
	headerSize = 512
	maxBody    = 3 << 19 // 1.5 MiB
)

const (
	magic   = "PRSVCFG1"
	version = 1

	flagSealed = 1 << 0
	flagSigned = 1 << 1
)

// States of a slot that are no faults of its bytes.
var (
	ErrEmpty = errors.New("the slot is empty")                           // all zero
	ErrNewer = errors.New("the settings are sealed for a newer release") // layout version above ours
)

// A SlotError says at which check a slot was refused, in the order of appliance.md 5.4.
type SlotError struct {
	Check string // "header", "body", "padding", "archive", "config.dat", "appliance.json", "signature"
	Err   error
}

func (e *SlotError) Error() string { return "settings slot: " + e.Check + ": " + e.Err.Error() }
func (e *SlotError) Unwrap() error { return e.Err }

func bad(check, format string, args ...any) error {
	return &SlotError{check, fmt.Errorf(format, args...)}
}

// appendSlot wraps a body into a sealed slot.
func appendSlot(body []byte, generation uint64) ([]byte, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("seal: the settings have %d bytes, a slot holds %d; leave out key files", len(body), maxBody)
	}
	s := make([]byte, SlotSize)
	copy(s, magic)
	binary.LittleEndian.PutUint32(s[8:], version)
	binary.LittleEndian.PutUint32(s[12:], flagSealed)
	binary.LittleEndian.PutUint64(s[16:], generation)
	binary.LittleEndian.PutUint64(s[24:], uint64(len(body)))
	sum := sha256.Sum256(body)
	copy(s[32:], sum[:])
	sum = sha256.Sum256(s[:64])
	copy(s[64:], sum[:])
	copy(s[headerSize:], body)
	return s, nil
}

// Open verifies a slot and reads what it holds. It checks in this order: header hash, body
// hash, padding, archive, config.dat and appliance.json, signature. Errors: ErrEmpty,
// ErrNewer, or a *SlotError.
func Open(slot []byte) (*Sealed, error) {
	body, generation, flags, err := splitSlot(slot)
	if err != nil {
		return nil, err
	}
	s, err := parseBody(body)
	if err != nil {
		return nil, err
	}
	if flags&flagSigned != 0 {
		return nil, bad("signature", "signed with the key of a network, and this release knows none; use the image of that network")
	}
	s.Generation = generation
	s.Code = SealCode(slot)
	return s, nil
}

// splitSlot checks everything but the meaning of the body.
func splitSlot(slot []byte) (body []byte, generation uint64, flags uint32, err error) {
	if len(slot) != SlotSize {
		return nil, 0, 0, bad("header", "the slot has %d bytes, not %d", len(slot), SlotSize)
	}
	if zero(slot) {
		return nil, 0, 0, ErrEmpty
	}
	if string(slot[:8]) != magic {
		return nil, 0, 0, bad("header", "no settings here: the magic is %q, not %q", slot[:8], magic)
	}
	if sum := sha256.Sum256(slot[:64]); !bytes.Equal(sum[:], slot[64:96]) {
		return nil, 0, 0, bad("header", "damaged: its hash is wrong")
	}
	if v := binary.LittleEndian.Uint32(slot[8:]); v > version {
		return nil, 0, 0, fmt.Errorf("%w: layout version %d, this release reads %d", ErrNewer, v, version)
	} else if v != version {
		return nil, 0, 0, bad("header", "layout version %d does not exist", v)
	}
	flags = binary.LittleEndian.Uint32(slot[12:])
	generation = binary.LittleEndian.Uint64(slot[16:])
	n := binary.LittleEndian.Uint64(slot[24:])
	switch {
	case flags&^(flagSealed|flagSigned) != 0:
		return nil, 0, 0, bad("header", "unknown flags %#x", flags)
	case flags&flagSealed == 0:
		return nil, 0, 0, bad("header", "written but not sealed; seal it again")
	case generation == 0:
		return nil, 0, 0, bad("header", "generation 0 does not exist")
	case n > maxBody:
		return nil, 0, 0, bad("header", "body of %d bytes, at most %d", n, maxBody)
	}
	body = slot[headerSize : headerSize+n]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], slot[32:64]) {
		return nil, 0, 0, bad("body", "damaged: its hash is wrong")
	}
	if flags&flagSigned == 0 && !zero(slot[96:headerSize]) {
		return nil, 0, 0, bad("padding", "damaged: bytes in the signature block of unsigned settings")
	}
	if !zero(slot[headerSize+n:]) {
		return nil, 0, 0, bad("padding", "damaged: bytes behind the body")
	}
	return body, generation, flags, nil
}

// SealCode is the fingerprint of a good slot that a person compares: the first 80 bits of
// SHA-256(header‖body), "AAAA-BBBB-CCCC-DDDD" in base32 (appliance.md 5.4). It is "" for
// bytes that are no good slot.
func SealCode(slot []byte) string {
	body, _, _, err := splitSlot(slot)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(slot[:headerSize+len(body)])
	c := base32.StdEncoding.EncodeToString(sum[:10])
	return strings.Join([]string{c[0:4], c[4:8], c[8:12], c[12:16]}, "-")
}

func zero(b []byte) bool {
	return len(b) == 0 || b[0] == 0 && bytes.Equal(b[:len(b)-1], b[1:])
}

// A Verdict is what the two slots of a stick mean together (appliance.md 5.5).
type Verdict string

// Verdicts. Only NotConfigured may ever lead to new settings: damage never does, or whoever
// can damage a stick could have a fresh node.
const (
	Good          Verdict = "sealed"
	OneBad        Verdict = "one slot bad"   // used, with a lasting warning
	NotConfigured Verdict = "not configured" // both slots all zero
	Damaged       Verdict = "damaged"        // no daemon
	Newer         Verdict = "newer release"  // no daemon
	WrongImage    Verdict = "wrong image"    // no daemon
)

// A Choice is the outcome of Choose.
type Choice struct {
	Verdict  Verdict
	Sealed   *Sealed // with Good and OneBad
	Slot     int     // which slot Sealed is from
	Problems []error // of the slots that were not used, and what is wrong with the choice
}

// Choose decides between the two slots. The valid slot of the highest generation counts.
// imageID is that of the running image; settings made for another image are refused.
func Choose(slots [2][]byte, imageID string) Choice {
	var c Choice
	var opened [2]*Sealed
	var errs [2]error
	for i, b := range slots {
		opened[i], errs[i] = Open(b)
		if errs[i] != nil && !errors.Is(errs[i], ErrEmpty) {
			c.Problems = append(c.Problems, fmt.Errorf("slot %d: %w", i, errs[i]))
		}
	}
	switch {
	case errors.Is(errs[0], ErrNewer) || errors.Is(errs[1], ErrNewer):
		c.Verdict = Newer
		return c
	case errors.Is(errs[0], ErrEmpty) && errors.Is(errs[1], ErrEmpty):
		c.Verdict = NotConfigured
		return c
	case errs[0] != nil && errs[1] != nil:
		c.Verdict = Damaged
		return c
	case errs[0] == nil && errs[1] == nil:
		c.Verdict = Good
		if opened[0].Generation == opened[1].Generation && !bytes.Equal(slots[0], slots[1]) {
			c.Verdict = Damaged
			c.Problems = append(c.Problems, fmt.Errorf("both slots have generation %d and differ", opened[0].Generation))
			return c
		}
		if opened[1].Generation > opened[0].Generation {
			c.Slot = 1
		}
	default:
		c.Verdict = OneBad
		if errs[0] != nil {
			c.Slot = 1
		}
		if errors.Is(errs[1-c.Slot], ErrEmpty) {
			c.Problems = append(c.Problems, fmt.Errorf("slot %d: %w", 1-c.Slot, ErrEmpty))
		}
	}
	s := opened[c.Slot]
	if want := s.Appliance.ImageID; want != "" && want != imageID {
		c.Verdict = WrongImage
		c.Problems = append(c.Problems, fmt.Errorf("settings are made for image %s, running is %s", want, imageID))
		return c
	}
	c.Sealed = s
	return c
}
