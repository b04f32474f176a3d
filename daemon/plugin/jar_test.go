package plugin

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"armarium/daemon/keystore"
)

type jarCase struct {
	Jar, What, Result    string
	ResultIfExpiredRefus string `json:"result_if_expired_refused"`
	ResultRecentJava     string `json:"result_recent_java"`
	Plugins              []string
}

func jarCases(t testing.TB) (cases []jarCase, trust *keystore.Trust) {
	t.Helper()
	var all struct {
		Keystore, Password string
		Jars               []jarCase
	}
	readJSON(t, "jars.json", &all)
	b, err := os.ReadFile(filepath.Join("testdata", all.Keystore))
	if err != nil {
		t.Fatal(err)
	}
	if trust, err = keystore.ParseTrust(b, all.Password); err != nil {
		t.Fatal(err)
	}
	return all.Jars, trust
}

func readJSON(t testing.TB, name string, into any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func jarBytes(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "jars", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testNow lies in the validity of the vectors' certificates.
var testNow = time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)

// jarDepartures are the archives that the classic node accepts with all algorithms allowed
// and this one does not, with the reason.
var jarDepartures = map[string]string{
	"good-md5-digest.jar": "plugin-packaging.md 2.3: MD5 is rejected by default",
}

func TestOpenJarVectors(t *testing.T) {
	cases, trust := jarCases(t)
	verdict := func(c jarCase, opt JarOptions) (string, *Jar, error) {
		j, err := OpenJar(jarBytes(t, c.Jar), trust, opt)
		if err != nil {
			var je *JarError
			if !errors.As(err, &je) {
				t.Errorf("%s: error %T (%v), want *JarError", c.Jar, err, err)
			}
			return "rejected", nil, err
		}
		return "accepted", j, nil
	}
	for _, c := range cases {
		t.Run(c.Jar, func(t *testing.T) {
			want := c.Result
			if why := jarDepartures[c.Jar]; why != "" {
				want = "rejected"
			}
			got, j, err := verdict(c, JarOptions{AcceptExpired: true, Now: testNow})
			if got != want {
				t.Fatalf("%s: %s (%v), want %s", c.What, got, err, want)
			}
			if err != nil {
				t.Log(err)
			}
			if want == "accepted" {
				var ids []string
				for _, d := range j.Definitions {
					ids = append(ids, d.ID())
				}
				slices.Sort(ids)
				if !slices.Equal(ids, c.Plugins) || len(j.Failures) > 0 {
					t.Errorf("plugins %v (failures %v), want %v", ids, j.Failures, c.Plugins)
				}
			}
			if w := c.ResultIfExpiredRefus; w != "" {
				if got, _, _ := verdict(c, JarOptions{Now: testNow}); got != w {
					t.Errorf("expired refused: %s, want %s", got, w)
				}
			}
			if w := c.ResultRecentJava; w != "" {
				if got, _, _ := verdict(c, JarOptions{AcceptExpired: true, Now: testNow, Strict: true}); got != w {
					t.Errorf("strict: %s, want %s", got, w)
				}
			}
		})
	}
}

// TestOpenJarUnlisted: what the manifest does not name is not used (plugin-packaging.md 2.4).
func TestOpenJarUnlisted(t *testing.T) {
	_, trust := jarCases(t)
	j, err := OpenJar(jarBytes(t, "added-entry-not-in-manifest.jar"), trust, JarOptions{AcceptExpired: true, Now: testNow})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(j.Entries, func(e JarEntry) bool { return !e.Verified }) || len(j.Warnings) == 0 {
		t.Errorf("entries %v, warnings %v: want one unverified entry and a warning", j.Entries, j.Warnings)
	}
}

// TestOpenJarOneByte flips every byte of a good archive. None may change what is loaded:
// either the archive is refused, or the byte does not matter (dates of entries).
func TestOpenJarOneByte(t *testing.T) {
	_, trust := jarCases(t)
	good := jarBytes(t, "good-rsa.jar")
	opt := JarOptions{AcceptExpired: true, Now: testNow}
	want, err := OpenJar(good, trust, opt)
	if err != nil {
		t.Fatal(err)
	}
	accepted := 0
	for i := range good {
		b := bytes.Clone(good)
		b[i] ^= 0x01
		j, err := OpenJar(b, trust, opt)
		if err != nil {
			continue
		}
		accepted++
		if len(j.Definitions) != 1 || j.Definitions[0].ID() != want.Definitions[0].ID() || j.Fingerprint != want.Fingerprint {
			t.Errorf("byte %d: accepted with other content: %+v", i, j)
		}
	}
	if accepted > len(good)/4 {
		t.Errorf("%d of %d changed bytes made no difference", accepted, len(good))
	}
}

func testKey(t testing.TB, kind keystore.KeyKind) *keystore.KeyPair {
	t.Helper()
	k, err := keystore.NewKeyPair("Test signer-lockss", keystore.Subject{Name: "Test Signer", Organization: "Example"}, kind, testNow.Add(-time.Hour), keystore.DefaultValidity)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func packed(t testing.TB) []byte {
	t.Helper()
	b, err := PackJar(os.DirFS(filepath.Join("testdata", "xml")), []string{"org.example.plugin.GrandChildPlugin", "org.example.plugin.VolumePlugin"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackAndSign(t *testing.T) {
	for _, kind := range []keystore.KeyKind{keystore.RSA2048, keystore.ECP256} {
		t.Run(string(kind), func(t *testing.T) {
			key := testKey(t, kind)
			plain := packed(t)
			if !bytes.Equal(plain, packed(t)) {
				t.Error("packing twice gives different bytes")
			}
			opt := JarOptions{Now: testNow, Strict: true}
			trust := keystore.NewTrust(key.Cert())
			if _, err := OpenJar(plain, trust, opt); err == nil {
				t.Error("an unsigned archive is accepted")
			}
			if j, err := PeekJar(plain, LoadOptions{}); err != nil || len(j.Definitions) != 2 {
				t.Errorf("peek: %+v, %v", j, err)
			}
			signed, err := SignJar(plain, key)
			if err != nil {
				t.Fatal(err)
			}
			if again, _ := SignJar(plain, key); kind == keystore.RSA2048 && !bytes.Equal(signed, again) {
				t.Error("signing twice gives different bytes")
			}
			j, err := OpenJar(signed, trust, opt)
			if err != nil {
				t.Fatal(err)
			}
			if len(j.Definitions) != 2 || len(j.Failures) != 0 || j.Signer != "CN=Test Signer,O=Example" {
				t.Errorf("definitions %v, failures %v, signer %s", j.Definitions, j.Failures, j.Signer)
			}
			resigned, err := SignJar(signed, testKey(t, kind))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := OpenJar(resigned, trust, opt); err == nil {
				t.Error("an archive signed by a key of the same name is accepted")
			}
			if r := VerifyJar(resigned, trust, opt); r.Err == nil || len(r.Signers) != 1 || r.Jar == nil || len(r.Jar.Definitions) != 2 {
				t.Errorf("report %+v", r)
			}
		})
	}
}

func TestPackErrors(t *testing.T) {
	src := fstest.MapFS{"org/x/P.xml": {Data: []byte("<map><entry><string>plugin_parent</string><string>org.x.Gone</string></entry></map>")}}
	for _, ids := range [][]string{nil, {"org.x.Absent"}, {"org.x.P"}} {
		if _, err := PackJar(src, ids); err == nil {
			t.Errorf("PackJar(%v): no error", ids)
		}
	}
}

func TestManifestLines(t *testing.T) {
	long := "org/example/" + string(bytes.Repeat([]byte("véry-"), 40)) + "/P.xml"
	m := appendAttr(nil, "Manifest-Version", "1.0")
	m = append(m, "\r\n"...)
	m = appendAttr(m, "Name", long)
	for _, l := range bytes.SplitAfter(m, []byte("\n")) {
		if len(l) > 72 {
			t.Errorf("line of %d bytes: %q", len(l), l)
		}
	}
	_, rest, err := parseManifest(m)
	if err != nil || len(rest) != 1 || rest[0].name != long {
		t.Errorf("parsed %+v, %v", rest, err)
	}
}

// TestJarBomb: an archive whose entries unpack to more than the limits is refused.
func TestJarBomb(t *testing.T) {
	files := []jarFile{{manifestName, []byte("Manifest-Version: 1.0\r\n\r\n")}, {"big.xml", make([]byte, maxEntry+1)}}
	b, err := writeJar(files)
	if err != nil {
		t.Fatal(err)
	}
	var je *JarError
	if _, err := OpenJar(b, nil, JarOptions{}); !errors.As(err, &je) || je.Entry != "big.xml" {
		t.Errorf("error %v, want one about big.xml", err)
	}
	many := []jarFile{{manifestName, nil}}
	for i := range maxEntries {
		many = append(many, jarFile{name: "f" + string(rune('a'+i%26)) + time.Duration(i).String()})
	}
	if b, err = writeJar(many); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJar(b, nil, JarOptions{}); !errors.As(err, &je) {
		t.Errorf("error %v, want a *JarError", err)
	}
}

func FuzzOpenJar(f *testing.F) {
	cases, trust := jarCases(f)
	for _, c := range cases {
		f.Add(jarBytes(f, c.Jar))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		j, err := OpenJar(b, trust, JarOptions{AcceptExpired: true, Now: testNow})
		if err != nil {
			var je *JarError
			if !errors.As(err, &je) {
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		if j.Signer == "" {
			t.Error("accepted without a signer")
		}
	})
}

func trustOf(keys ...*keystore.KeyPair) *keystore.Trust {
	t := keystore.NewTrust()
	for _, k := range keys {
		t = t.Merge(keystore.NewTrust(k.Cert()))
	}
	return t
}

// FuzzSignatureBlock reaches the PKCS#7 reader, which lies compressed in an archive.
func FuzzSignatureBlock(f *testing.F) {
	for _, name := range []string{"good-rsa.jar", "good-ec.jar", "good-dsa1024-sha1.jar", "chain-ca-trusted.jar"} {
		files, err := zipFiles(jarBytes(f, name))
		if err != nil {
			f.Fatal(err)
		}
		var sf []byte
		for _, z := range files {
			_, ext, ok := metaFile(z.Name)
			if !ok {
				continue
			}
			b, err := readEntry(z, maxManifest)
			if err != nil {
				f.Fatal(err)
			}
			if ext == "SF" {
				sf = b
			} else {
				f.Add(b, sf)
			}
		}
	}
	_, trust := jarCases(f)
	f.Fuzz(func(t *testing.T, block, sf []byte) {
		if len(block) > maxSignature {
			return
		}
		sig, err := verifyBlock("META-INF/X.RSA", block, sf, JarOptions{})
		if err == nil && sig.weak == "" {
			sig.judge(trust, JarOptions{Now: testNow})
		}
		parseManifest(sf)
	})
}
