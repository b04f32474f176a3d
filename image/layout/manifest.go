package layout

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
)

// MaxManifest is the largest manifest or image information that is read, in bytes.
const MaxManifest = 1 << 20

// Info says what runs: it is /etc/image.json of the initramfs.
//
// The image id is the first 16 bytes, in hex, of a SHA-256 over everything that goes into
// the unified kernel image but this file itself. Two images with one id are the same
// system.
type Info struct {
	Layout        int     `json:"layout"` // Version
	Version       string  `json:"version"`
	ImageID       string  `json:"image_id"`       // 32 hex digits
	KernelRelease string  `json:"kernel_release"` // as uname -r
	CommandLine   string  `json:"command_line"`   // of the kernel, as built in
	Built         int64   `json:"built"`          // seconds since 1970; the clock is never before
	Locked        bool    `json:"locked"`         // false: inputs differ from the lock, not a release
	Debug         bool    `json:"debug,omitempty"`
	Inputs        []Input `json:"inputs"` // sorted by name
}

// Input is one Debian package whose files are in the image.
type Input struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Manifest is MANIFEST.JSN of the system partition: what is on the stick.
type Manifest struct {
	Layout        int            `json:"layout"`
	Version       string         `json:"version"`
	ImageID       string         `json:"image_id"`
	KernelRelease string         `json:"kernel_release"`
	CommandLine   string         `json:"command_line"`
	Files         []ManifestFile `json:"files"` // sorted by name; not the manifest itself
}

// ManifestFile is one file of the system partition.
type ManifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Encode gives the canonical bytes: indented, one line feed at the end.
func (m Manifest) Encode() ([]byte, error) { return encode(m) }

// Encode gives the canonical bytes: indented, one line feed at the end.
func (i Info) Encode() ([]byte, error) { return encode(i) }

// ParseManifest reads MANIFEST.JSN. Unknown members are ignored, so that an older program
// reads a newer manifest of the same layout.
func ParseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if err := decode(b, &m); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	if err := check(m.Layout, m.ImageID); err != nil {
		return Manifest{}, fmt.Errorf("manifest: %w", err)
	}
	return m, nil
}

// ParseInfo reads /etc/image.json.
func ParseInfo(b []byte) (Info, error) {
	var i Info
	if err := decode(b, &i); err != nil {
		return Info{}, fmt.Errorf("image.json: %w", err)
	}
	if err := check(i.Layout, i.ImageID); err != nil {
		return Info{}, fmt.Errorf("image.json: %w", err)
	}
	return i, nil
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func decode(b []byte, v any) error {
	if len(b) > MaxManifest {
		return fmt.Errorf("%d bytes, more than %d", len(b), MaxManifest)
	}
	return json.Unmarshal(b, v)
}

func check(layout int, id string) error {
	if layout != Version {
		return fmt.Errorf("layout version %d, this program knows %d", layout, Version)
	}
	if h, err := hex.DecodeString(id); err != nil || len(h) != 16 {
		return errors.New("image id is not 32 hex digits")
	}
	return nil
}
