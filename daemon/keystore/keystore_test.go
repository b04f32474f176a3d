package keystore

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"
)

var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func trusted(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/trusted.jks")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseTrustJKS(t *testing.T) {
	b := trusted(t)
	for _, password := range []string{"password", ""} {
		tr, err := ParseTrust(b, password)
		if err != nil {
			t.Fatalf("password %q: %v", password, err)
		}
		es := tr.Entries()
		if len(es) == 0 {
			t.Fatal("no certificates")
		}
		for _, e := range es {
			if e.Alias == "" || !tr.Contains(e.Cert) || len(tr.Named(e.Cert)) == 0 {
				t.Errorf("entry %+v is not found again", e.Alias)
			}
		}
	}
	if _, err := ParseTrust(b, "wrong"); !errors.Is(err, ErrPassword) {
		t.Errorf("wrong password: %v", err)
	}
	bad := bytes.Clone(b)
	bad[100] ^= 1
	if _, err := ParseTrust(bad, "password"); err == nil {
		t.Error("a damaged store is accepted")
	}
	for n := range b {
		if _, err := ParseTrust(b[:n], ""); err == nil {
			t.Fatalf("store cut off at %d is accepted", n)
		}
	}
}

func TestKeyPairFormats(t *testing.T) {
	for _, kind := range []KeyKind{RSA2048, ECP256} {
		k, err := NewKeyPair("ann-lockss", Subject{Name: "Ann Example", Organization: "Example Library", Country: "US"}, kind, created, DefaultValidity)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Cert().NotAfter.Sub(k.Cert().NotBefore); got != DefaultValidity {
			t.Errorf("validity %v", got)
		}
		if err := k.Cert().CheckSignature(k.Cert().SignatureAlgorithm, k.Cert().RawTBSCertificate, k.Cert().Signature); err != nil {
			t.Errorf("not self-signed: %v", err)
		}
		jks, err := k.JKS("secret1", created)
		if err != nil {
			t.Fatal(err)
		}
		p12, err := k.PKCS12("secret1")
		if err != nil {
			t.Fatal(err)
		}
		pem, err := k.PEM()
		if err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"JKS": jks, "PKCS#12": p12, "PEM": pem} {
			got, err := ParseKey(b, "", "secret1")
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if !got.Cert().Equal(k.Cert()) {
				t.Errorf("%s: another certificate", name)
			}
			if _, err := ParseKey(b, "", "wrong1"); name != "PEM" && err == nil {
				t.Errorf("%s: opens with a wrong password", name)
			}
			// The certificate of a key entry names a signer but is not trusted itself.
			tr, err := ParseTrust(b, "secret1")
			if err != nil {
				t.Errorf("%s as trust: %v", name, err)
				continue
			}
			if name != "PEM" && tr.Contains(k.Cert()) || len(tr.Named(k.Cert())) != 1 {
				t.Errorf("%s: trusted %v, named %d", name, tr.Contains(k.Cert()), len(tr.Named(k.Cert())))
			}
		}
		if _, err := ParseKey(jks, "other", "secret1"); err == nil {
			t.Error("a key of another name is found")
		}
	}
}

func TestTrustFormats(t *testing.T) {
	src, err := ParseTrust(trusted(t), "password")
	if err != nil {
		t.Fatal(err)
	}
	jks, err := EncodeTrustJKS(src.Entries(), "password", created)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := EncodeTrustJKS(src.Entries(), "password", created); !bytes.Equal(jks, again) {
		t.Error("JKS: different bytes the second time")
	}
	p12, err := EncodeTrustPKCS12(src.Entries(), "password")
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"JKS": jks, "PKCS#12": p12, "PEM": EncodeTrustPEM(src.Entries())} {
		got, err := ParseTrust(b, "password")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, e := range src.Entries() {
			if !got.Contains(e.Cert) {
				t.Errorf("%s: %s is lost", name, e.Alias)
			}
		}
	}
	if m := NewTrust().Merge(src); len(m.Entries()) != len(src.Entries()) {
		t.Errorf("merged %d", len(m.Entries()))
	}
	var no *Trust
	if no.Contains(src.Entries()[0].Cert) || no.Named(src.Entries()[0].Cert) != nil {
		t.Error("no trust trusts")
	}
}

func TestNewKeyPairErrors(t *testing.T) {
	for _, c := range []struct {
		alias string
		s     Subject
		kind  KeyKind
		valid time.Duration
	}{
		{"a", Subject{}, RSA2048, time.Hour},
		{"", Subject{Name: "x"}, RSA2048, time.Hour},
		{"a", Subject{Name: "x"}, "dsa1024", time.Hour},
		{"a", Subject{Name: "x"}, ECP256, 0},
	} {
		if _, err := NewKeyPair(c.alias, c.s, c.kind, created, c.valid); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func FuzzParseTrust(f *testing.F) {
	f.Add(trusted(f))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if tr, err := ParseTrust(b, ""); err == nil && tr == nil {
			t.Error("neither trust nor error")
		}
	})
}
