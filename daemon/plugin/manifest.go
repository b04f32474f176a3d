package plugin

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Limits of an archive. Published plugin archives have at most some hundred entries and a
// few megabytes; what is greater is not a plugin archive.
const (
	maxJar       = 64 << 20  // bytes of the archive
	maxEntries   = 5000      // files and directories
	maxEntry     = 32 << 20  // bytes of one entry, uncompressed
	maxUnpacked  = 256 << 20 // bytes of all entries, uncompressed
	maxManifest  = 4 << 20   // bytes of the manifest or a signature file
	maxSignature = 64 << 10  // bytes of a signature block
	maxSigners   = 8
)

// A section is one part of a manifest or signature file (plugin-packaging.md 1):
//
//	line     = name ": " value, ended by CR LF, LF or CR
//	         | " " continuation of the line before
//	section  = lines, ended by an empty line; the first holds the main attributes, the
//	           others begin with Name
//
// raw is the section with its empty line, as signature files digest it.
type section struct {
	name  string
	attrs map[string]string // names in small letters
	raw   []byte
}

func (s section) get(name string) string { return s.attrs[strings.ToLower(name)] }

// parseManifest splits a manifest into its main section and the others, by name in order.
func parseManifest(b []byte) (main section, rest []section, err error) {
	first := true
	for pos := 0; pos < len(b); {
		start := pos
		var lines [][]byte
		joined := false // the last line is a copy of its own
		for pos < len(b) {
			line, n := cutLine(b[pos:])
			pos += n
			if len(line) == 0 {
				break
			}
			if line[0] == ' ' {
				if len(lines) == 0 {
					return main, nil, errors.New("a continuation line without a line to continue")
				}
				last := len(lines) - 1
				if !joined {
					lines[last], joined = bytes.Clone(lines[last]), true
				}
				lines[last] = append(lines[last], line[1:]...)
				continue
			}
			lines, joined = append(lines, line), false
		}
		if len(lines) == 0 && !first {
			continue // more than one empty line
		}
		s := section{attrs: map[string]string{}, raw: b[start:pos]}
		for i, l := range lines {
			k, v, ok := bytes.Cut(l, []byte(":"))
			if !ok || len(k) == 0 {
				return main, nil, fmt.Errorf("line %q: want name: value", clip(l))
			}
			v = bytes.TrimPrefix(v, []byte(" "))
			key := strings.ToLower(string(k))
			if !first && i == 0 {
				if key != "name" {
					return main, nil, fmt.Errorf("section begins with %q, want Name", clip(l))
				}
				s.name = string(v)
				continue
			}
			s.attrs[key] = string(v)
		}
		if first {
			main, first = s, false
		} else {
			rest = append(rest, s)
		}
	}
	return main, rest, nil
}

// cutLine returns the line at the beginning of b and its length with the line end.
func cutLine(b []byte) ([]byte, int) {
	i := bytes.IndexAny(b, "\r\n")
	switch {
	case i < 0:
		return b, len(b)
	case b[i] == '\r' && i+1 < len(b) && b[i+1] == '\n':
		return b[:i], i + 2
	}
	return b[:i], i + 1
}

func clip(b []byte) string {
	if len(b) > 60 {
		b = append(bytes.Clone(b[:60]), "…"...)
	}
	return string(b)
}

// appendAttr writes "name: value", wrapped so that no line exceeds 72 bytes with its end.
func appendAttr(dst []byte, name, value string) []byte {
	const width = 70
	line := name + ": " + value
	for len(line) > width {
		cut := width
		// Old readers decode each line by itself: a character must not be split.
		for cut > 1 && line[cut]&0xc0 == 0x80 {
			cut--
		}
		dst = append(dst, line[:cut]...)
		dst = append(dst, "\r\n"...)
		line = " " + line[cut:]
	}
	dst = append(dst, line...)
	return append(dst, "\r\n"...)
}
