package keystore

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"

	jks "github.com/pavlo-v-chernykh/keystore-go/v4"
	"software.sslmate.com/src/go-pkcs12"
)

// DefaultValidity is that of the classic key tool: ten years (plugin-packaging.md 1).
const DefaultValidity = 3650 * 24 * time.Hour

// A KeyPair is a private key with its certificate chain, leaf first.
type KeyPair struct {
	Alias string
	Key   crypto.Signer
	Chain []*x509.Certificate // at least one
}

// Cert is the certificate of the key itself.
func (k *KeyPair) Cert() *x509.Certificate { return k.Chain[0] }

// A Subject names the holder of a key, as the questions of the Java key tool do. Name is
// required.
type Subject struct {
	Name, Unit, Organization, City, State, Country string
}

// KeyKind is the algorithm and size of a new key.
type KeyKind string

// RSA keys are accepted by every classic node, EC keys from Java 7 on.
const (
	RSA2048 KeyKind = "rsa2048"
	RSA3072 KeyKind = "rsa3072"
	RSA4096 KeyKind = "rsa4096"
	ECP256  KeyKind = "ec256"
)

// NewKeyPair makes a key with a self-signed certificate valid from notBefore for validity.
func NewKeyPair(alias string, s Subject, kind KeyKind, notBefore time.Time, validity time.Duration) (*KeyPair, error) {
	if strings.TrimSpace(s.Name) == "" {
		return nil, errors.New("a key needs the name of its holder")
	}
	if alias == "" {
		return nil, errors.New("a key needs an alias, the name under which it lies in its store")
	}
	if validity <= 0 {
		return nil, fmt.Errorf("validity %v: must be positive", validity)
	}
	var key crypto.Signer
	var err error
	sigAlg := x509.SHA256WithRSA
	switch kind {
	case RSA2048, RSA3072, RSA4096:
		bits := map[KeyKind]int{RSA2048: 2048, RSA3072: 3072, RSA4096: 4096}[kind]
		key, err = rsa.GenerateKey(rand.Reader, bits)
	case ECP256:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		sigAlg = x509.ECDSAWithSHA256
	default:
		return nil, fmt.Errorf("key kind %q: use %s, %s, %s or %s", kind, RSA2048, RSA3072, RSA4096, ECP256)
	}
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return nil, err
	}
	one := func(s string) []string {
		if s == "" {
			return nil
		}
		return []string{s}
	}
	name := pkix.Name{
		CommonName: s.Name, OrganizationalUnit: one(s.Unit), Organization: one(s.Organization),
		Locality: one(s.City), Province: one(s.State), Country: one(s.Country),
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial.Add(serial, big.NewInt(1)), Subject: name,
		NotBefore: notBefore.UTC().Truncate(time.Second), NotAfter: notBefore.UTC().Add(validity).Truncate(time.Second),
		SignatureAlgorithm: sigAlg, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &KeyPair{Alias: alias, Key: key, Chain: []*x509.Certificate{cert}}, nil
}

// ParseKey reads a key pair from a JKS, PKCS#12 or PEM store. alias chooses the entry of a
// JKS store with several keys; "" takes the only one.
func ParseKey(b []byte, alias, password string) (*KeyPair, error) {
	switch {
	case len(b) > maxStore:
		return nil, fmt.Errorf("key store has %d bytes, at most %d are allowed", len(b), maxStore)
	case len(b) == 0:
		return nil, errors.New("key store is empty")
	case isJKS(b):
		return parseJKSKey(b, alias, password)
	case isPEM(b):
		return parsePEMKey(b, alias)
	case b[0] == 0x30:
		key, cert, more, err := pkcs12.DecodeChain(b, password)
		if errors.Is(err, pkcs12.ErrIncorrectPassword) {
			return nil, ErrPassword
		}
		if err != nil {
			return nil, fmt.Errorf("PKCS#12 key store: %w", err)
		}
		if alias == "" {
			alias = "key"
		}
		return newPair(alias, key, append([]*x509.Certificate{cert}, more...))
	}
	return nil, errors.New("not a key store: neither JKS, PKCS#12 nor PEM")
}

func newPair(alias string, key any, chain []*x509.Certificate) (*KeyPair, error) {
	s, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %q: kind %T cannot sign here; use RSA or EC", alias, key)
	}
	pub, ok := s.Public().(interface{ Equal(crypto.PublicKey) bool })
	if !ok || len(chain) == 0 || !pub.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("key %q: its certificate is missing or belongs to another key", alias)
	}
	return &KeyPair{Alias: alias, Key: s, Chain: chain}, nil
}

func parseJKSKey(b []byte, alias, password string) (*KeyPair, error) {
	// The library takes lengths from the file; walking it once first bounds them.
	if _, err := parseJKSTrust(b, password); err != nil {
		return nil, err
	}
	ks := jks.New(jks.WithOrderedAliases())
	if err := ks.Load(bytes.NewReader(b), []byte(password)); err != nil {
		return nil, fmt.Errorf("JKS key store: %w", err)
	}
	var names []string
	for _, a := range ks.Aliases() {
		if ks.IsPrivateKeyEntry(a) {
			names = append(names, a)
		}
	}
	if alias == "" {
		if len(names) != 1 {
			return nil, fmt.Errorf("JKS key store has %d keys (%s): name one by its alias", len(names), strings.Join(names, ", "))
		}
		alias = names[0]
	}
	if !ks.IsPrivateKeyEntry(alias) {
		return nil, fmt.Errorf("JKS key store has no key %q (it has: %s)", alias, strings.Join(names, ", "))
	}
	e, err := ks.GetPrivateKeyEntry(alias, []byte(password))
	if err != nil {
		return nil, fmt.Errorf("JKS key %q: %w", alias, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(e.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("JKS key %q: %w (a DSA key must be replaced by an RSA key: armarium keys new)", alias, err)
	}
	var chain []*x509.Certificate
	for _, c := range e.CertificateChain {
		cert, err := x509.ParseCertificate(c.Content)
		if err != nil {
			return nil, fmt.Errorf("JKS key %q: certificate: %w", alias, err)
		}
		chain = append(chain, cert)
	}
	return newPair(alias, key, chain)
}

func parsePEMKey(b []byte, alias string) (*KeyPair, error) {
	var key any
	var chain []*x509.Certificate
	for n := 1; ; n++ {
		block, rest := pem.Decode(b)
		if block == nil {
			break
		}
		b = rest
		var err error
		var c *x509.Certificate
		switch block.Type {
		case "CERTIFICATE":
			if c, err = x509.ParseCertificate(block.Bytes); err == nil {
				chain = append(chain, c)
			}
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			err = errors.New("encrypted PEM keys are not read; use a PKCS#12 file")
		}
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", n, err)
		}
	}
	if key == nil {
		return nil, errors.New("PEM file without a private key")
	}
	if alias == "" {
		alias = "key"
	}
	return newPair(alias, key, chain)
}

// JKS writes the pair as a JKS store with one password for store and key, as the classic
// signing tool wants it. created is the time in the entry.
func (k *KeyPair) JKS(password string, created time.Time) ([]byte, error) {
	if len(password) < 6 {
		return nil, errors.New("the password of a key store needs 6 characters or more")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.Key)
	if err != nil {
		return nil, err
	}
	e := jks.PrivateKeyEntry{CreationTime: created, PrivateKey: der}
	for _, c := range k.Chain {
		e.CertificateChain = append(e.CertificateChain, jks.Certificate{Type: "X.509", Content: c.Raw})
	}
	ks := jks.New(jks.WithOrderedAliases())
	if err := ks.SetPrivateKeyEntry(k.Alias, e, []byte(password)); err != nil {
		return nil, fmt.Errorf("JKS key %q: %w", k.Alias, err)
	}
	var b bytes.Buffer
	if err := ks.Store(&b, []byte(password)); err != nil {
		return nil, fmt.Errorf("JKS key store: %w", err)
	}
	return b.Bytes(), nil
}

// PKCS12 writes the pair as a PKCS#12 file that OpenSSL 1.1 and Java 11 and later read.
func (k *KeyPair) PKCS12(password string) ([]byte, error) {
	if len(password) < 6 {
		return nil, errors.New("the password of a key store needs 6 characters or more")
	}
	return pkcs12.Modern2023.Encode(k.Key, k.Chain[0], k.Chain[1:], password)
}

// PEM writes the pair unprotected: the certificates, then the key.
func (k *KeyPair) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.Key)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for _, c := range k.Chain {
		b.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	b.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return b.Bytes(), nil
}
