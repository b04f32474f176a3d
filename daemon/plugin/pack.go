package plugin

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/smallstep/pkcs7"

	"armarium/daemon/keystore"
)

// packTime stands in every entry, so that equal sources give equal archives.
func packTime() time.Time { return time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC) }

// creator is the Created-By of manifests and signature files.
const creator = "Armarium"

// A jarFile is a file to be packed.
type jarFile struct {
	name string
	data []byte
}

// PackJar makes an unsigned archive of the plugins with these ids, whose definitions lie in
// src by their ids (org/example/ExamplePlugin.xml). Packed is the directory of each plugin
// and of each ancestor, without directories below and without files that have no dot in
// their name, as the classic tool does it (plugin-packaging.md 1). The same files give the
// same bytes. A plugin that does not load is an error.
func PackJar(src fs.FS, ids []string) ([]byte, error) {
	if len(ids) == 0 {
		return nil, fmt.Errorf("name at least one plugin to pack")
	}
	read := func(id string) ([]byte, error) { return fs.ReadFile(src, strings.ReplaceAll(id, ".", "/")+".xml") }
	dirs := map[string]bool{}
	marked := map[string]bool{}
	for _, id := range ids {
		b, err := read(id)
		if err != nil {
			return nil, fmt.Errorf("plugin %s: %w", id, err)
		}
		d, err := ParseDefinition(id, b, read)
		if err != nil {
			return nil, err
		}
		for _, a := range d.Chain() {
			dirs[path.Dir(strings.ReplaceAll(a, ".", "/")+".xml")] = true
		}
		marked[strings.ReplaceAll(id, ".", "/")+".xml"] = true
	}
	var files []jarFile
	for dir := range dirs {
		es, err := fs.ReadDir(src, dir)
		if err != nil {
			return nil, err
		}
		for _, e := range es {
			name := path.Join(dir, e.Name())
			if !e.Type().IsRegular() || !strings.Contains(e.Name(), ".") || strings.HasPrefix(strings.ToUpper(name), "META-INF/") {
				continue
			}
			b, err := fs.ReadFile(src, name)
			if err != nil {
				return nil, err
			}
			files = append(files, jarFile{name, b})
		}
	}
	slices.SortFunc(files, func(a, b jarFile) int { return strings.Compare(a.name, b.name) })
	var m []byte
	m = appendAttr(m, "Manifest-Version", "1.0")
	m = appendAttr(m, "Created-By", creator)
	m = append(m, "\r\n"...)
	for _, f := range files {
		if marked[f.name] {
			m = appendAttr(m, "Name", f.name)
			m = appendAttr(m, "Lockss-Plugin", "true")
			m = append(m, "\r\n"...)
		}
	}
	return writeJar(append([]jarFile{{manifestName, m}}, files...))
}

func writeJar(files []jarFile) ([]byte, error) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range files {
		w, err := z.CreateHeader(&zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: packTime()})
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	if b.Len() > maxJar {
		return nil, fmt.Errorf("archive of %d bytes, at most %d are allowed", b.Len(), maxJar)
	}
	return b.Bytes(), nil
}

// SignJar signs every file of an archive with SHA-256. Earlier signatures are dropped. The
// result is accepted by classic nodes and by the Java tools: the manifest first, then the
// signature, then the content; with an RSA key the same input gives the same bytes.
func SignJar(jar []byte, key *keystore.KeyPair) ([]byte, error) {
	switch k := key.Cert().PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("RSA key of %d bits: use one of 2048 or more (armarium keys new)", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
	default:
		return nil, fmt.Errorf("key of kind %T: use RSA or EC (armarium keys new)", k)
	}
	entries, err := zipFiles(jar)
	if err != nil {
		return nil, err
	}
	old := map[string]section{}
	var main section
	var files []jarFile
	total := int64(0)
	for _, f := range entries {
		upper := strings.ToUpper(f.Name)
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		limit := int64(maxEntry)
		if upper == manifestName {
			limit = maxManifest
		}
		b, err := readEntry(f, limit)
		if err != nil {
			return nil, err
		}
		if total += int64(len(b)); total > maxUnpacked {
			return nil, jarError("", "more than %d bytes unpacked", maxUnpacked)
		}
		if upper == manifestName {
			var rest []section
			if main, rest, err = parseManifest(b); err != nil {
				return nil, jarError(manifestName, "%v", err)
			}
			for _, s := range rest {
				old[s.name] = s
			}
			continue
		}
		if _, _, sig := metaFile(upper); sig {
			continue
		}
		files = append(files, jarFile{f.Name, b})
	}
	if len(files) == 0 {
		return nil, jarError("", "no file to sign")
	}
	manifest, sf := signedManifest(main, old, files)
	block, err := signBlock(sf, key)
	if err != nil {
		return nil, err
	}
	base, ext := signatureName(key)
	out := []jarFile{{manifestName, manifest}, {"META-INF/" + base + ".SF", sf}, {"META-INF/" + base + "." + ext, block}}
	return writeJar(append(out, files...))
}

// signedManifest writes the manifest with a digest of each file, and the signature file.
func signedManifest(main section, old map[string]section, files []jarFile) (manifest, sf []byte) {
	sum := func(b []byte) string {
		s := sha256.Sum256(b)
		return base64.StdEncoding.EncodeToString(s[:])
	}
	by := main.get("Created-By")
	if by == "" {
		by = creator
	}
	manifest = appendAttr(manifest, "Manifest-Version", "1.0")
	manifest = appendAttr(manifest, "Created-By", by)
	manifest = append(manifest, "\r\n"...)
	mainLen := len(manifest)
	var parts []byte
	for _, f := range files {
		start := len(manifest)
		manifest = appendAttr(manifest, "Name", f.name)
		if _, ok := old[f.name].attrs["lockss-plugin"]; ok {
			manifest = appendAttr(manifest, "Lockss-Plugin", "true")
		}
		manifest = appendAttr(manifest, "SHA-256-Digest", sum(f.data))
		manifest = append(manifest, "\r\n"...)
		parts = appendAttr(parts, "Name", f.name)
		parts = appendAttr(parts, "SHA-256-Digest", sum(manifest[start:]))
		parts = append(parts, "\r\n"...)
	}
	sf = appendAttr(sf, "Signature-Version", "1.0")
	sf = appendAttr(sf, "Created-By", creator)
	sf = appendAttr(sf, "SHA-256-Digest-Manifest", sum(manifest))
	sf = appendAttr(sf, "SHA-256-Digest-Manifest-Main-Attributes", sum(manifest[:mainLen]))
	sf = append(sf, "\r\n"...)
	return manifest, append(sf, parts...)
}

func signBlock(sf []byte, key *keystore.KeyPair) ([]byte, error) {
	sd, err := pkcs7.NewSignedData(sf)
	if err != nil {
		return nil, err
	}
	sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if _, ok := key.Cert().PublicKey.(*rsa.PublicKey); ok {
		// Java 6 looks for the plain key algorithm here, as its own signer wrote it.
		sd.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	}
	// Without signed attributes: no time stamp, hence the same bytes each time.
	if err := sd.SignWithoutAttr(key.Cert(), key.Key, pkcs7.SignerInfoConfig{}); err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	for _, c := range key.Chain[1:] {
		sd.AddCertificate(c)
	}
	sd.Detach()
	return sd.Finish()
}

// signatureName is the base name of the signature files: the alias in capitals, odd
// characters as "_", at most 8 of them; and the extension of the key's kind.
func signatureName(key *keystore.KeyPair) (base, ext string) {
	for _, r := range strings.ToUpper(key.Alias) {
		if len(base) == 8 {
			break
		}
		if r < 'A' || r > 'Z' {
			if (r < '0' || r > '9') && r != '-' {
				r = '_'
			}
		}
		base += string(r)
	}
	if base == "" {
		base = "SIGNER"
	}
	if _, ok := key.Cert().PublicKey.(*ecdsa.PublicKey); ok {
		return base, "EC"
	}
	return base, "RSA"
}

// VerifyJar judges an archive for people: what OpenJar says, and what can still be told of
// an archive that is not accepted. Error is nil for an accepted one.
func VerifyJar(b []byte, trust *keystore.Trust, opt JarOptions) Report {
	j, err := OpenJar(b, trust, opt)
	r := Report{Jar: j, Err: err}
	c, cerr := readJar(b, opt)
	if cerr != nil {
		return r
	}
	for _, s := range c.signatures {
		r.Signers = append(r.Signers, Signer{
			File: s.name, Subject: s.chain[0].Subject.String(), Fingerprint: keystore.Fingerprint(s.chain[0]),
			Algorithm: s.algorithm, NotBefore: s.chain[0].NotBefore, NotAfter: s.chain[0].NotAfter, Files: len(s.covers), Weak: s.weak,
		})
	}
	if j == nil {
		r.Jar = &Jar{Entries: c.entries, Warnings: append(c.warnings, c.moreWarnings...)}
		c.load(r.Jar, opt.Load)
	}
	return r
}

// PeekJar loads the plugins of an archive without looking at any signature. It is for
// people who look at an archive; a node never uses what it returns.
func PeekJar(b []byte, o LoadOptions) (*Jar, error) {
	files, err := zipFiles(b)
	if err != nil {
		return nil, err
	}
	j := &Jar{}
	c := &contents{sections: map[string]section{}, xml: map[string][]byte{}}
	total := int64(0)
	for _, f := range files {
		var b bytes.Buffer
		n, err := copyEntry(&b, f, maxEntry)
		if err != nil {
			return nil, err
		}
		if total += n; total > maxUnpacked {
			return nil, jarError("", "more than %d bytes unpacked", maxUnpacked)
		}
		switch {
		case strings.EqualFold(f.Name, manifestName):
			_, rest, err := parseManifest(b.Bytes())
			if err != nil {
				return nil, jarError(f.Name, "%v", err)
			}
			for _, s := range rest {
				c.sections[s.name] = s
				c.order = append(c.order, s.name)
			}
		case strings.HasSuffix(f.Name, "/"):
		default:
			j.Entries = append(j.Entries, JarEntry{Name: f.Name, Size: n})
			if strings.HasSuffix(strings.ToLower(f.Name), ".xml") {
				c.xml[f.Name] = b.Bytes()
			}
		}
	}
	for i, e := range j.Entries {
		_, j.Entries[i].Plugin = c.sections[e.Name].attrs["lockss-plugin"]
	}
	c.load(j, o)
	return j, nil
}

// A Report tells about an archive. Jar is nil if not even its digests hold; for an archive
// that is refused, its definitions are for looking at only.
type Report struct {
	Jar     *Jar
	Err     error
	Signers []Signer
}

// A Signer is one signature of an archive.
type Signer struct {
	File, Subject, Fingerprint, Algorithm string
	NotBefore, NotAfter                   time.Time
	Files                                 int    // files it covers
	Weak                                  string // why it does not count, or ""
}
