package lockss

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"
)

// Nonce is 20 random bytes that make digests of one poll useless in any other
// (lcap-v3.md 6.6).
type Nonce = []byte

// NonceSize is the length of a [Nonce] in bytes.
const NonceSize = 20

// NewNonce returns a nonce from the system's cryptographic random source.
func NewNonce() []byte {
	n := make([]byte, NonceSize)
	rand.Read(n) // never fails
	return n
}

// NewHash returns the maker of digests called alg: "SHA-1" (also "SHA"), "SHA-256",
// "SHA-384", "SHA-512" or "MD5", in any case, with or without hyphen. The error names alg.
func NewHash(alg string) (func() hash.Hash, error) {
	switch strings.ReplaceAll(strings.ToUpper(alg), "-", "") {
	case "SHA", "SHA1":
		return sha1.New, nil
	case "SHA256":
		return sha256.New, nil
	case "SHA384":
		return sha512.New384, nil
	case "SHA512":
		return sha512.New, nil
	case "MD5":
		return md5.New, nil
	}
	return nil, fmt.Errorf("hash algorithm %q is unknown, want SHA-1, SHA-256, SHA-384, SHA-512 or MD5", alg)
}

// InSample says whether url belongs to the sample of a poll with this sample nonce and modulus
// (lcap-v3.md 6.5). With modulus <= 0 the poll is not sampled and every URL belongs to it.
func InSample(h func() hash.Hash, nonce []byte, modulus int, url string) bool {
	if modulus <= 0 {
		return true
	}
	d := h()
	d.Write(nonce)
	d.Write([]byte(url))
	i := int32(binary.BigEndian.Uint32(d.Sum(nil))) // signed: -3 mod 3 = 0
	return int64(i)%int64(modulus) == 0
}
