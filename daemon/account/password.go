package account

import (
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

const (
	pbkdf2Name   = "pbkdf2-sha256"
	pbkdf2Rounds = 600_000    // about 0.2 s on a small box
	maxRounds    = 10_000_000 // more would hold up every login
	saltSize     = 16
	keySize      = 32
)

// decoyHash is checked when there are no users. Nothing is known to have this hash, and it
// would not be accepted if it had.
const decoyHash = "$pbkdf2-sha256$i=600000$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// parsed is a hash in parts. Rounds is 0 for a plain digest.
type parsed struct {
	digest func() hash.Hash
	rounds int
	salt   []byte
	sum    []byte
}

// parseHash reads a hash of the forms in the package comment.
func parseHash(text string) (parsed, error) {
	if rest, ok := strings.CutPrefix(text, "$"); ok {
		return parsePHC(rest)
	}
	alg, sum, ok := strings.Cut(text, ":")
	if !ok {
		return parsed{}, errors.New("the password is not of the form ALG:HEX or $pbkdf2-sha256$…")
	}
	var p parsed
	switch strings.ToUpper(strings.TrimSpace(alg)) {
	case "SHA-256", "SHA256":
		p.digest = sha256.New
	case "SHA-1", "SHA1", "SHA":
		p.digest = sha1.New
	case "SHA-512", "SHA512":
		p.digest = sha512.New
	case "MD5":
		p.digest = md5.New
	default:
		return parsed{}, fmt.Errorf("the password hash has the unknown algorithm %q", alg)
	}
	var err error
	if p.sum, err = hex.DecodeString(strings.TrimSpace(sum)); err != nil || len(p.sum) != p.digest().Size() {
		return parsed{}, fmt.Errorf("the password hash is not a %s digest in hexadecimal", alg)
	}
	return p, nil
}

// parsePHC reads "pbkdf2-sha256$i=600000$<salt>$<hash>".
func parsePHC(text string) (parsed, error) {
	f := strings.Split(text, "$")
	if len(f) != 4 || f[0] != pbkdf2Name {
		return parsed{}, errors.New("the password hash is not of the form $pbkdf2-sha256$i=…$salt$hash")
	}
	n, ok := strings.CutPrefix(f[1], "i=")
	rounds, err := strconv.Atoi(n)
	if !ok || err != nil || rounds < 1 || rounds > maxRounds {
		return parsed{}, fmt.Errorf("the password hash has no number of rounds from 1 to %d", maxRounds)
	}
	salt, err := base64.RawStdEncoding.DecodeString(f[2])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return parsed{}, errors.New("the password hash has a bad salt")
	}
	sum, err := base64.RawStdEncoding.DecodeString(f[3])
	if err != nil || len(sum) != keySize {
		return parsed{}, errors.New("the password hash has not 32 bytes")
	}
	return parsed{digest: sha256.New, rounds: rounds, salt: salt, sum: sum}, nil
}

// CheckPassword tells whether a password has a hash. An unreadable hash fits nothing.
func CheckPassword(hash, password string) bool {
	p, err := parseHash(hash)
	if err != nil || password == "" {
		return false
	}
	var sum []byte
	if p.rounds == 0 {
		h := p.digest()
		h.Write(latin1(password))
		sum = h.Sum(nil)
	} else if sum, err = pbkdf2.Key(p.digest, password, p.salt, p.rounds, len(p.sum)); err != nil {
		return false
	}
	return subtle.ConstantTimeCompare(sum, p.sum) == 1
}

// HashPassword returns a new hash of a password, salted.
func HashPassword(password string) (string, error) {
	if password == "" || len(password) > maxPassword {
		return "", fmt.Errorf("a password has 1 to %d bytes", maxPassword)
	}
	salt := make([]byte, saltSize)
	rand.Read(salt)
	sum, err := pbkdf2.Key(sha256.New, password, salt, pbkdf2Rounds, keySize)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$%s$i=%d$%s$%s", pbkdf2Name, pbkdf2Rounds, enc.EncodeToString(salt), enc.EncodeToString(sum)), nil
}

// latin1 gives the bytes that Java hashes: ISO-8859-1, with ? for what it lacks.
func latin1(s string) []byte {
	var b []byte
	for _, r := range s {
		if r > 0xff {
			b = append(b, '?')
			continue
		}
		b = append(b, byte(r))
	}
	return b
}
