package keystore

import (
	"bytes"
	"crypto/sha1"
	"crypto/subtle"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unicode/utf16"

	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
)

// The JKS format (plugin-packaging.md 3), big-endian:
//
//	offset  size  field
//	     0     4  FE ED FE ED
//	     4     4  version, 1 or 2
//	     8     4  number of entries
//	              entries: tag (4), alias (2 + n), creation time in ms (8), then
//	                tag 1: protected key (4 + n), chain length (4), certificates
//	                tag 2: certificate
//	              certificate: type text (2 + n, version 2 only), DER (4 + n)
//	  last    20  SHA-1 of password (UTF-16BE), "Mighty Aphrodite", all before
//
// Trust is read here and not by the library, for two reasons: the order of the entries
// decides which certificate of a name is found first, and a store must open without its
// password. Keys are read and written by the library.
var jksMagic = []byte{0xfe, 0xed, 0xfe, 0xed}

func isJKS(b []byte) bool { return bytes.HasPrefix(b, jksMagic) }

func parseJKSTrust(b []byte, password string) (*Trust, error) {
	if len(b) < 12+sha1.Size {
		return nil, errors.New("JKS key store is cut off")
	}
	body, sum := b[:len(b)-sha1.Size], b[len(b)-sha1.Size:]
	if password != "" {
		if subtle.ConstantTimeCompare(jksDigest(body, password), sum) != 1 {
			return nil, fmt.Errorf("JKS key store: damaged, or: %w", ErrPassword)
		}
	}
	r := &reader{b: body[4:]}
	version := r.u32()
	count := r.u32()
	if version != 1 && version != 2 {
		return nil, fmt.Errorf("JKS key store: version %d, want 1 or 2", version)
	}
	t := &Trust{}
	for i := range count {
		tag := r.u32()
		alias := string(r.bytes(int(r.u16())))
		r.bytes(8)
		switch {
		case r.failed:
		case tag == 1:
			r.bytes(int(r.u32()))
			chain := r.u32()
			for n := range chain {
				c, err := r.cert(version)
				if err != nil {
					return nil, fmt.Errorf("JKS entry %q: %w", alias, err)
				}
				if r.failed {
					break
				}
				if n == 0 {
					t.named = append(t.named, c)
				}
			}
		case tag == 2:
			c, err := r.cert(version)
			if err != nil {
				return nil, fmt.Errorf("JKS entry %q: %w", alias, err)
			}
			if !r.failed {
				t.add(Entry{Alias: alias, Cert: c})
			}
		default:
			return nil, fmt.Errorf("JKS entry %d: unknown kind %d", i+1, tag)
		}
		if r.failed {
			return nil, errors.New("JKS key store is cut off")
		}
	}
	if len(r.b) != 0 {
		return nil, fmt.Errorf("JKS key store: %d bytes after the last entry", len(r.b))
	}
	return t, nil
}

// A reader takes big-endian fields from b; after a short read all further ones are empty.
type reader struct {
	b      []byte
	failed bool
}

func (r *reader) bytes(n int) []byte {
	if r.failed || n < 0 || n > len(r.b) {
		r.failed = true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) u16() uint16 {
	if p := r.bytes(2); p != nil {
		return binary.BigEndian.Uint16(p)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if p := r.bytes(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (r *reader) cert(version uint32) (*x509.Certificate, error) {
	if version == 2 {
		if kind := r.bytes(int(r.u16())); !r.failed && string(kind) != "X.509" {
			return nil, fmt.Errorf("certificate of kind %q, want X.509", kind)
		}
	}
	der := r.bytes(int(r.u32()))
	if r.failed {
		return nil, nil
	}
	return x509.ParseCertificate(der)
}

func jksDigest(body []byte, password string) []byte {
	h := sha1.New()
	for _, u := range utf16.Encode([]rune(password)) {
		h.Write([]byte{byte(u >> 8), byte(u)})
	}
	h.Write([]byte("Mighty Aphrodite"))
	h.Write(body)
	return h.Sum(nil)
}

// EncodeTrustJKS writes trusted certificates as a JKS store that every classic node reads.
// created is the time in the entries; the same arguments give the same bytes.
func EncodeTrustJKS(certs []Entry, password string, created time.Time) ([]byte, error) {
	ks := jks.New(jks.WithOrderedAliases())
	for i, e := range certs {
		alias := e.Alias
		if alias == "" {
			alias = fmt.Sprintf("cert%d", i+1)
		}
		if ks.IsTrustedCertificateEntry(alias) {
			return nil, fmt.Errorf("two certificates of the name %q", alias)
		}
		err := ks.SetTrustedCertificateEntry(alias, jks.TrustedCertificateEntry{
			CreationTime: created,
			Certificate:  jks.Certificate{Type: "X.509", Content: e.Cert.Raw},
		})
		if err != nil {
			return nil, fmt.Errorf("JKS entry %q: %w", alias, err)
		}
	}
	var b bytes.Buffer
	if err := ks.Store(&b, []byte(password)); err != nil {
		return nil, fmt.Errorf("JKS key store: %w", err)
	}
	return b.Bytes(), nil
}
