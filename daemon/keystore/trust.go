// Package keystore reads and writes the key stores that LOCKSS networks use: which
// certificates may sign plugins, and the key pair that does.
//
// Words: a trusted certificate stands in a store on its own (JKS tag 2); a key entry is a
// private key with its certificate chain (JKS tag 1). A Trust is what a node needs of a
// store, a KeyPair what a signer needs.
//
//	format   recognised by                     read             written
//	JKS      magic FE ED FE ED, version 1, 2   Trust, KeyPair   KeyPair, certificates
//	PKCS#12  DER sequence                      Trust, KeyPair   KeyPair, certificates
//	PEM      "-----BEGIN "                     Trust, KeyPair   KeyPair, certificates
//
// A store is never trusted by its place: who calls decides whether the bytes come from the
// sealed settings or from a property server. Nothing here keeps state; all values are
// immutable after they are made and safe for concurrent use.
package keystore

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"software.sslmate.com/src/go-pkcs12"
)

// maxStore limits a key store: a network has tens of certificates of about 1 KiB.
const maxStore = 4 << 20 // bytes

// ErrPassword says that a store cannot be opened with the password given.
var ErrPassword = errors.New("the password does not open this key store")

// A Trust is the set of certificates against which plugin signatures are judged
// (plugin-packaging.md 2.1 step 5).
type Trust struct {
	trusted []Entry
	named   []*x509.Certificate // trusted ones and first certificates of key entries, file order
}

// An Entry is a certificate with its name in the store ("" in PEM and PKCS#12 bundles).
type Entry struct {
	Alias string
	Cert  *x509.Certificate
}

// NewTrust trusts the given certificates.
func NewTrust(certs ...*x509.Certificate) *Trust {
	t := &Trust{}
	for _, c := range certs {
		t.add(Entry{Cert: c})
	}
	return t
}

func (t *Trust) add(e Entry) {
	t.trusted = append(t.trusted, e)
	t.named = append(t.named, e.Cert)
}

// ParseTrust reads a key store: JKS, PKCS#12 or PEM, recognised by its first bytes. The
// password of a JKS store only guards against damage and may be empty: the check is then
// skipped, as in the classic node. A PKCS#12 store needs its password.
func ParseTrust(b []byte, password string) (*Trust, error) {
	switch {
	case len(b) > maxStore:
		return nil, fmt.Errorf("key store has %d bytes, at most %d are allowed", len(b), maxStore)
	case len(b) == 0:
		return nil, errors.New("key store is empty")
	case isJKS(b):
		return parseJKSTrust(b, password)
	case isPEM(b):
		return parsePEMTrust(b)
	case b[0] == 0x30:
		certs, err := pkcs12.DecodeTrustStore(b, password)
		if errors.Is(err, pkcs12.ErrIncorrectPassword) {
			return nil, ErrPassword
		}
		if err != nil {
			// A store made for a key has no trusted entries, but its certificate may
			// still name a signer (step 5c).
			if k, kerr := ParseKey(b, "", password); kerr == nil {
				return &Trust{named: k.Chain[:1]}, nil
			}
			return nil, fmt.Errorf("PKCS#12 key store: %w", err)
		}
		return NewTrust(certs...), nil
	}
	return nil, errors.New("not a key store: neither JKS, PKCS#12 nor PEM certificates")
}

// Merge returns the certificates of t and u together.
func (t *Trust) Merge(u *Trust) *Trust {
	m := &Trust{}
	for _, x := range []*Trust{t, u} {
		if x != nil {
			m.trusted = append(m.trusted, x.trusted...)
			m.named = append(m.named, x.named...)
		}
	}
	return m
}

// Entries lists the trusted certificates in the order of the store.
func (t *Trust) Entries() []Entry {
	if t == nil {
		return nil
	}
	return append([]Entry(nil), t.trusted...)
}

// Contains says whether c itself is a trusted certificate.
func (t *Trust) Contains(c *x509.Certificate) bool {
	if t == nil {
		return false
	}
	for _, e := range t.trusted {
		if bytes.Equal(e.Cert.Raw, c.Raw) {
			return true
		}
	}
	return false
}

// Named returns the certificates whose subject has the same text as that of c, those of
// key entries included.
func (t *Trust) Named(c *x509.Certificate) []*x509.Certificate {
	if t == nil {
		return nil
	}
	var same []*x509.Certificate
	for _, k := range t.named {
		if bytes.Equal(k.RawSubject, c.RawSubject) || k.Subject.String() == c.Subject.String() {
			same = append(same, k)
		}
	}
	return same
}

// Fingerprint is the SHA-256 of the certificate in upper-case hexadecimal with colons, as
// the Java key tool prints it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	var b []byte
	for i, x := range sum {
		if i > 0 {
			b = append(b, ':')
		}
		b = append(b, []byte(hex.EncodeToString([]byte{x}))...)
	}
	return string(bytes.ToUpper(b))
}

func isPEM(b []byte) bool {
	return bytes.Contains(b[:min(len(b), 64<<10)], []byte("-----BEGIN "))
}

func parsePEMTrust(b []byte) (*Trust, error) {
	t := &Trust{}
	for n := 1; ; n++ {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
		t.add(Entry{Cert: c})
	}
	if len(t.trusted) == 0 {
		return nil, errors.New("PEM file without a certificate")
	}
	return t, nil
}

// EncodeTrustPEM writes certificates as a PEM bundle.
func EncodeTrustPEM(certs []Entry) []byte {
	var b bytes.Buffer
	for _, e := range certs {
		if e.Alias != "" {
			fmt.Fprintf(&b, "# %s\n", e.Alias)
		}
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Cert.Raw}))
	}
	return b.Bytes()
}

// EncodeTrustPKCS12 writes certificates as a PKCS#12 trust store that Java reads.
func EncodeTrustPKCS12(certs []Entry, password string) ([]byte, error) {
	var entries []pkcs12.TrustStoreEntry
	for i, e := range certs {
		name := e.Alias
		if name == "" {
			name = fmt.Sprintf("cert%d", i+1)
		}
		entries = append(entries, pkcs12.TrustStoreEntry{Cert: e.Cert, FriendlyName: name})
	}
	return pkcs12.Modern2023.EncodeTrustStoreEntries(entries, password)
}
