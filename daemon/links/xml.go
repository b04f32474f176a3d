package links

import (
	"bytes"
	"errors"
	"io"
)

// maxProlog is how far the root element of an XML document is looked for, bytes.
const maxProlog = 1 << 20

// ErrEmpty is an XML document without content.
var ErrEmpty = errors.New("empty document")

// XML gives the href of each xml-stylesheet instruction before the root element of r, UTF-8
// (crawl.md 10.4); entities stay as they are. What is malformed after that does not matter.
func XML(r io.Reader, base string, emit func(string)) error {
	b, err := io.ReadAll(io.LimitReader(r, maxProlog))
	if err != nil {
		return err
	}
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	if len(bytes.TrimSpace(b)) == 0 {
		return ErrEmpty
	}
	for {
		b = bytes.TrimLeft(b, " \t\r\n")
		var end []byte
		switch {
		case bytes.HasPrefix(b, []byte("<?")):
			end = []byte("?>")
		case bytes.HasPrefix(b, []byte("<!--")):
			end = []byte("-->")
		case bytes.HasPrefix(b, []byte("<!")):
			b = afterDoctype(b)
			continue
		default:
			return nil
		}
		i := bytes.Index(b, end)
		if i < 0 {
			return nil
		}
		if text, ok := bytes.CutPrefix(b[:i], []byte("<?xml-stylesheet")); ok {
			if v, ok := attribute(string(text), "href"); ok {
				if u, err := Resolve(base, v); err == nil {
					emit(u)
				}
			}
		}
		b = b[i+len(end):]
	}
}

// afterDoctype skips a declaration with its internal subset.
func afterDoctype(b []byte) []byte {
	depth := 0
	for i, c := range b {
		switch {
		case c == '[':
			depth++
		case c == ']':
			depth--
		case c == '>' && depth <= 0:
			return b[i+1:]
		}
	}
	return nil
}
