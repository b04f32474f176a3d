package plugin

import (
	"bytes"
	"crypto"
	//lint:ignore SA1019 the archives of existing networks are signed with DSA (plugin-packaging.md 2.3)
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"hash"
	"math/big"
	"time"

	"github.com/smallstep/pkcs7"

	"armarium/daemon/keystore"
)

func newSHA384() hash.Hash { return sha512.New384() }

// A signature is a signature block that verifies against its signature file.
type signature struct {
	name      string // of the block
	chain     []*x509.Certificate
	algorithm string
	covers    map[string]bool // names of manifest sections
	weak      string          // why it does not count, or ""
	trusted   string          // why its signer is trusted; set by judge
}

// verifyBlock checks a PKCS#7 block, with or without signed attributes, against the bytes
// of its signature file. The certificate is only judged later. The library reads the
// structure; the signature is checked here because DSA and expired signers must pass.
func verifyBlock(name string, block, file []byte, opt JarOptions) (*signature, error) {
	p7, err := pkcs7.Parse(block)
	if err != nil {
		return nil, jarError(name, "not a PKCS#7 signature: %v", err)
	}
	if len(p7.Signers) != 1 {
		return nil, jarError(name, "has %d signers, want one", len(p7.Signers))
	}
	si := p7.Signers[0]
	var leaf *x509.Certificate
	for _, c := range p7.Certificates {
		if si.IssuerAndSerialNumber.SerialNumber != nil && c.SerialNumber.Cmp(si.IssuerAndSerialNumber.SerialNumber) == 0 &&
			bytes.Equal(c.RawIssuer, si.IssuerAndSerialNumber.IssuerName.FullBytes) {
			leaf = c
		}
	}
	if leaf == nil {
		return nil, jarError(name, "the certificate of its signer is not in it")
	}
	sig := &signature{name: name, chain: chainOf(leaf, p7.Certificates), covers: map[string]bool{}}
	alg, known := hashOf(si.DigestAlgorithm.Algorithm)
	if !known {
		return nil, jarError(name, "signed with an unknown digest algorithm %v; have it signed with SHA-256", si.DigestAlgorithm.Algorithm)
	}
	kind, bits := keyKind(leaf.PublicKey)
	sig.algorithm = fmt.Sprintf("%s %d, %s", kind, bits, hashName(alg))
	if alg == crypto.MD5 {
		sig.weak = "signed with MD5, which anyone can forge; have it signed again with SHA-256"
		return sig, nil
	}
	if opt.Strict && (alg == crypto.SHA1 || kind == "DSA" && bits < 2048) {
		sig.weak = fmt.Sprintf("signed with %s, which the strict rule does not accept; have it signed again with RSA 2048 and SHA-256", sig.algorithm)
		return sig, nil
	}
	signed := file
	if len(si.AuthenticatedAttributes) > 0 {
		var want []byte
		for _, a := range si.AuthenticatedAttributes {
			if a.Type.Equal(pkcs7.OIDAttributeMessageDigest) {
				if _, err := asn1.Unmarshal(a.Value.Bytes, &want); err != nil {
					return nil, jarError(name, "its message digest cannot be read: %v", err)
				}
			}
		}
		h := alg.New()
		h.Write(file)
		if want == nil || !bytes.Equal(h.Sum(nil), want) {
			return nil, jarError(name, "the signature does not fit its signature file; fetch the archive again")
		}
		if signed, err = asn1.MarshalWithParams(si.AuthenticatedAttributes, "set"); err != nil {
			return nil, jarError(name, "its attributes cannot be read: %v", err)
		}
	}
	if err := checkSignature(leaf.PublicKey, alg, signed, si.EncryptedDigest); err != nil {
		return nil, jarError(name, "the signature does not fit its signature file (%v); fetch the archive again", err)
	}
	return sig, nil
}

// chainOf orders the certificates from leaf on, by issuer.
func chainOf(leaf *x509.Certificate, certs []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{leaf}
	for c := leaf; len(chain) <= len(certs) && !bytes.Equal(c.RawIssuer, c.RawSubject); {
		var next *x509.Certificate
		for _, x := range certs {
			if bytes.Equal(x.RawSubject, c.RawIssuer) {
				next = x
				break
			}
		}
		if next == nil {
			break
		}
		chain = append(chain, next)
		c = next
	}
	return chain
}

// judge walks the chain by the rule of the classic node (plugin-packaging.md 2.1 step 5)
// and says why it is trusted.
func (s *signature) judge(trust *keystore.Trust, opt JarOptions) (string, error) {
	now := opt.Now
	if now.IsZero() {
		now = time.Now()
	}
	why := ""
	for _, c := range s.chain {
		subject := c.Subject.String()
		if now.Before(c.NotBefore) {
			return "", jarError(s.name, "the certificate of %s is valid from %s on only; check the clock of this node", subject, c.NotBefore.Format(time.DateOnly))
		}
		if now.After(c.NotAfter) && !opt.AcceptExpired {
			return "", jarError(s.name, "the certificate of %s expired on %s and expired ones are not accepted; have the archive signed again", subject, c.NotAfter.Format(time.DateOnly))
		}
		if trust.Contains(c) {
			return "the certificate of " + subject + " is in the keystore", nil
		}
		named := trust.Named(c)
		if len(named) == 0 {
			return "", jarError(s.name, "signed by %s (SHA-256 %s), whom the keystore does not know; if you trust this signer, add the certificate to the network's keystore", subject, keystore.Fingerprint(c))
		}
		// With two keystore certificates of one name the classic node takes the first it
		// happens to find; any that verifies is as good.
		ok := false
		for _, k := range named {
			ok = ok || certSignedBy(c, k) == nil
		}
		if !ok {
			return "", jarError(s.name, "signed by %s (SHA-256 %s): the keystore knows this name with another key; find out from the network's operator which is right", subject, keystore.Fingerprint(c))
		}
		why = "the certificate of " + subject + " is signed by the key of that name in the keystore"
	}
	return why, nil
}

// certSignedBy checks that the certificate c bears a signature of the key in k. Unlike
// package x509 it takes DSA and SHA-1, as old keystores need.
func certSignedBy(c, k *x509.Certificate) error {
	var outer struct {
		TBS asn1.RawValue
		Alg struct {
			OID    asn1.ObjectIdentifier
			Params asn1.RawValue `asn1:"optional"`
		}
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.Raw, &outer); err != nil {
		return err
	}
	alg, ok := hashOf(outer.Alg.OID)
	if !ok || alg == crypto.MD5 {
		return fmt.Errorf("certificate signed with an algorithm that does not count: %v", outer.Alg.OID)
	}
	return checkSignature(k.PublicKey, alg, c.RawTBSCertificate, outer.Signature.RightAlign())
}

// checkSignature verifies sig over signed with a public key.
func checkSignature(pub crypto.PublicKey, alg crypto.Hash, signed, sig []byte) error {
	h := alg.New()
	h.Write(signed)
	sum := h.Sum(nil)
	switch k := pub.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() > 8192 {
			return fmt.Errorf("RSA key of %d bits", k.N.BitLen())
		}
		return rsa.VerifyPKCS1v15(k, alg, sum, sig)
	case *ecdsa.PublicKey:
		if !ecdsa.VerifyASN1(k, sum, sig) {
			return errSignature
		}
		return nil
	case *dsa.PublicKey:
		var rs struct{ R, S *big.Int }
		if rest, err := asn1.Unmarshal(sig, &rs); err != nil || len(rest) != 0 {
			return errSignature
		}
		if k.P.BitLen() > 3072 || k.P.Sign() <= 0 || k.Q.BitLen() > 256 || k.Q.Sign() <= 0 {
			return fmt.Errorf("DSA key of %d bits", k.P.BitLen())
		}
		// The digest is cut to the length of the group order (FIPS 186-4, 4.6).
		if n := (k.Q.BitLen() + 7) / 8; len(sum) > n {
			sum = sum[:n]
		}
		if !dsa.Verify(k, sum, rs.R, rs.S) {
			return errSignature
		}
		return nil
	}
	return fmt.Errorf("unknown kind of key %T", pub)
}

var errSignature = fmt.Errorf("signature does not verify")

func keyKind(pub crypto.PublicKey) (string, int) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return "RSA", k.N.BitLen()
	case *ecdsa.PublicKey:
		return "EC", k.Curve.Params().BitSize
	case *dsa.PublicKey:
		return "DSA", k.P.BitLen()
	}
	return "unknown", 0
}

func hashName(h crypto.Hash) string {
	switch h {
	case crypto.SHA1:
		return "SHA-1"
	case crypto.SHA256:
		return "SHA-256"
	case crypto.SHA384:
		return "SHA-384"
	case crypto.SHA512:
		return "SHA-512"
	}
	return h.String()
}

// hashOf is the digest of an algorithm: a digest or a signature with one.
func hashOf(oid asn1.ObjectIdentifier) (crypto.Hash, bool) {
	switch oid.String() {
	case "1.2.840.113549.2.5", "1.2.840.113549.1.1.4":
		return crypto.MD5, true
	case "1.3.14.3.2.26", "1.2.840.113549.1.1.5", "1.2.840.10040.4.3", "1.2.840.10045.4.1":
		return crypto.SHA1, true
	case "2.16.840.1.101.3.4.2.1", "1.2.840.113549.1.1.11", "2.16.840.1.101.3.4.3.2", "1.2.840.10045.4.3.2":
		return crypto.SHA256, true
	case "2.16.840.1.101.3.4.2.2", "1.2.840.113549.1.1.12", "2.16.840.1.101.3.4.3.3", "1.2.840.10045.4.3.3":
		return crypto.SHA384, true
	case "2.16.840.1.101.3.4.2.3", "1.2.840.113549.1.1.13", "2.16.840.1.101.3.4.3.4", "1.2.840.10045.4.3.4":
		return crypto.SHA512, true
	}
	return 0, false
}
