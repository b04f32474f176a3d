package plugin

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"armarium/daemon/keystore"
	"armarium/daemon/lockss"
)

// A JarError is an archive that is not accepted. Reason says why, and what to do.
type JarError struct {
	Entry  string // "" for the archive as a whole
	Reason string
}

func (e *JarError) Error() string {
	if e.Entry == "" {
		return "plugin archive: " + e.Reason
	}
	return fmt.Sprintf("plugin archive: %s: %s", e.Entry, e.Reason)
}

func jarError(entry, format string, args ...any) *JarError {
	return &JarError{Entry: entry, Reason: fmt.Sprintf(format, args...)}
}

// JarOptions say how strictly archives are judged.
type JarOptions struct {
	AcceptExpired bool      `prop:"org.lockss.plugin.acceptExpiredCertificates" default:"true"` // signers whose certificate has expired
	Now           time.Time // zero: the present
	Strict        bool      // neither SHA-1 nor DSA below 2048 bits
	Load          LoadOptions
}

// A Jar is an accepted archive.
type Jar struct {
	Definitions []*Definition
	Failures    []error // marked plugins that could not be loaded
	Entries     []JarEntry
	Signer      string // subject of the signer's certificate
	Fingerprint string // SHA-256 of that certificate
	Algorithm   string // "RSA 2048, SHA-256"
	Trusted     string // why the signer is trusted
	Warnings    []string
}

// A JarEntry is a file of an archive. Only verified ones are used.
type JarEntry struct {
	Name     string
	Size     int64 // uncompressed
	Verified bool  // covered by a trusted signature
	Plugin   bool  // marked with Lockss-Plugin in the manifest
}

// OpenJar verifies an archive as the classic node does (plugin-packaging.md 2.1), in the
// order of its files, and loads the plugins it marks. An archive of zero length, the sign of
// a retracted plugin, is for the caller to skip. Any fault of the signature is a *JarError;
// a plugin that does not load is a Failure of an accepted archive.
//
// Stricter than the classic node: what has no verified manifest section is not used, MD5
// counts as no digest, and an archive whose directory and local headers differ is refused.
func OpenJar(b []byte, trust *keystore.Trust, opt JarOptions) (*Jar, error) {
	r, err := readJar(b, opt)
	if err != nil {
		return nil, err
	}
	j := &Jar{Warnings: r.warnings, Entries: r.entries}
	var first *signature
	for i := range j.Entries {
		e := &j.Entries[i]
		sig := r.signer[e.Name]
		if sig == nil {
			continue
		}
		if sig.trusted == "" {
			if sig.trusted, err = sig.judge(trust, opt); err != nil {
				return nil, err
			}
		}
		e.Verified = true
		if first == nil {
			first = sig
		}
	}
	if first == nil {
		return nil, jarError("", "no file of it is signed; have it signed (armarium plugin sign) and fetch it again")
	}
	j.Signer, j.Fingerprint = first.chain[0].Subject.String(), keystore.Fingerprint(first.chain[0])
	j.Algorithm, j.Trusted = first.algorithm, first.trusted
	j.Warnings = append(j.Warnings, r.moreWarnings...)
	r.load(j, opt.Load)
	return j, nil
}

// contents is an archive whose digests and signatures hold, before its signers are judged.
type contents struct {
	entries      []JarEntry
	sections     map[string]section // manifest, by name
	order        []string           // names of its sections
	manifest     []byte
	mainSection  section
	signatures   []*signature
	signer       map[string]*signature // entry to its first signature
	xml          map[string][]byte     // verified definitions and whatever may be a parent
	warnings     []string
	moreWarnings []string
}

func readJar(b []byte, opt JarOptions) (*contents, error) {
	switch {
	case len(b) == 0:
		return nil, jarError("", "it is empty: the plugins in it were retracted")
	case len(b) > maxJar:
		return nil, jarError("", "it has %d bytes, at most %d are allowed", len(b), maxJar)
	}
	files, err := zipFiles(b)
	if err != nil {
		return nil, err
	}
	c := &contents{sections: map[string]section{}, signer: map[string]*signature{}, xml: map[string][]byte{}}
	at := 0
	if at < len(files) && strings.EqualFold(files[at].Name, "META-INF/") {
		at++
	}
	if at >= len(files) || !strings.EqualFold(files[at].Name, manifestName) {
		return nil, jarError(manifestName, "it is not the first file of the archive, as it must be; pack the archive again with the jar tool or armarium plugin pack")
	}
	if c.manifest, err = readEntry(files[at], maxManifest); err != nil {
		return nil, err
	}
	main, rest, err := parseManifest(c.manifest)
	if err != nil {
		return nil, jarError(manifestName, "%v", err)
	}
	c.mainSection = main
	for _, s := range rest {
		if _, twice := c.sections[s.name]; twice {
			return nil, jarError(manifestName, "two sections for %s", s.name)
		}
		c.sections[s.name] = s
		c.order = append(c.order, s.name)
	}
	at++
	if at, err = c.readSignatures(files, at, opt); err != nil {
		return nil, err
	}
	if err := c.readContent(files[at:], opt); err != nil {
		return nil, err
	}
	return c, nil
}

const manifestName = "META-INF/MANIFEST.MF"

// zipFiles lists the entries in the order of the bytes. Every local header must agree with
// the directory at the end, and nothing may lie between the entries: a classic node reads
// the one and this node the other, and both must see the same archive.
func zipFiles(b []byte) ([]*zip.File, error) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, jarError("", "not a complete ZIP archive (%v); fetch it again", err)
	}
	if len(z.File) > maxEntries {
		return nil, jarError("", "more than %d entries", maxEntries)
	}
	type placed struct {
		f    *zip.File
		data int64
	}
	ps := make([]placed, len(z.File))
	seen := map[string]bool{}
	for i, f := range z.File {
		off, err := f.DataOffset()
		if err != nil {
			return nil, jarError(f.Name, "damaged: %v", err)
		}
		if seen[f.Name] {
			return nil, jarError(f.Name, "stands twice in the archive")
		}
		seen[f.Name] = true
		ps[i] = placed{f, off}
	}
	slices.SortStableFunc(ps, func(x, y placed) int {
		switch {
		case x.data < y.data:
			return -1
		case x.data > y.data:
			return 1
		}
		return 0
	})
	files := make([]*zip.File, len(ps))
	pos := int64(0)
	for i, p := range ps {
		const header = 30
		size := int64(len(b))
		if pos+header > size || string(b[pos:pos+4]) != "PK\x03\x04" {
			return nil, jarError(p.f.Name, "the archive's directory does not fit its content; pack it again")
		}
		h := b[pos : pos+header]
		name := pos + header
		nameLen := int64(binary.LittleEndian.Uint16(h[26:]))
		data := name + nameLen + int64(binary.LittleEndian.Uint16(h[28:]))
		if data != p.data || data > size || name+nameLen > size || string(b[name:name+nameLen]) != p.f.Name ||
			binary.LittleEndian.Uint16(h[8:]) != p.f.Method {
			return nil, jarError(p.f.Name, "the archive's directory does not fit its content; pack it again")
		}
		if p.f.CompressedSize64 > uint64(size-data) {
			return nil, jarError(p.f.Name, "cut off; fetch the archive again")
		}
		pos = data + int64(p.f.CompressedSize64)
		if p.f.Flags&8 != 0 {
			n, ok := descriptor(b[pos:], p.f)
			if !ok {
				return nil, jarError(p.f.Name, "the archive's directory does not fit its content; pack it again")
			}
			pos += n
		}
		files[i] = p.f
	}
	if len(files) > 0 && !bytes.HasPrefix(b[pos:], []byte("PK\x01\x02")) {
		return nil, jarError("", "bytes between the last file and the directory; pack the archive again")
	}
	return files, nil
}

// descriptor is the length of the data descriptor after an entry: an optional signature,
// the checksum, and both sizes in 4 or 8 bytes each.
func descriptor(b []byte, f *zip.File) (int64, bool) {
	for _, sign := range []int{4, 0} {
		for _, wide := range []int{4, 8} {
			n := sign + 4 + 2*wide
			if len(b) < n || sign == 4 && string(b[:4]) != "PK\x07\x08" {
				continue
			}
			d := b[sign:]
			read := func(at int) uint64 {
				if wide == 8 {
					return binary.LittleEndian.Uint64(d[at:])
				}
				return uint64(binary.LittleEndian.Uint32(d[at:]))
			}
			next := b[n:]
			if binary.LittleEndian.Uint32(d) == f.CRC32 && read(4) == f.CompressedSize64 && read(4+wide) == f.UncompressedSize64 &&
				(bytes.HasPrefix(next, []byte("PK\x03\x04")) || bytes.HasPrefix(next, []byte("PK\x01\x02"))) {
				return int64(n), true
			}
		}
	}
	return 0, false
}

// readEntry reads a whole entry of at most limit bytes.
func readEntry(f *zip.File, limit int64) ([]byte, error) {
	var b bytes.Buffer
	if _, err := copyEntry(&b, f, limit); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func copyEntry(w io.Writer, f *zip.File, limit int64) (int64, error) {
	r, err := f.Open()
	if err != nil {
		return 0, jarError(f.Name, "cannot be read: %v", err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return n, jarError(f.Name, "damaged: %v; fetch the archive again", err)
	}
	if n > limit {
		return n, jarError(f.Name, "more than %d bytes", limit)
	}
	return n, nil
}

// readSignatures reads the signature files, which stand between the manifest and the
// content; those that come later do not count. It returns where the content begins.
func (c *contents) readSignatures(files []*zip.File, at int, opt JarOptions) (int, error) {
	sf := map[string][]byte{}
	type block struct {
		base, name string
		b          []byte
	}
	var blocks []block
	for ; at < len(files); at++ {
		f := files[at]
		upper := strings.ToUpper(f.Name)
		base, ext, ok := metaFile(upper)
		if strings.HasPrefix(upper, "META-INF/") && (strings.HasSuffix(upper, "/") || upper == "META-INF/INDEX.LIST") {
			continue
		}
		if !ok {
			break
		}
		limit := int64(maxManifest)
		if ext != "SF" {
			limit = maxSignature
		}
		b, err := readEntry(f, limit)
		if err != nil {
			return 0, err
		}
		if ext == "SF" {
			sf[base] = b
		} else {
			blocks = append(blocks, block{base, f.Name, b})
		}
		if len(sf) > maxSigners || len(blocks) > maxSigners {
			return 0, jarError(f.Name, "more than %d signatures", maxSigners)
		}
	}
	for _, b := range blocks {
		file, ok := sf[b.base]
		if !ok {
			c.warnings = append(c.warnings, b.name+" has no signature file and does not count")
			continue
		}
		sig, err := verifyBlock(b.name, b.b, file, opt)
		if err != nil {
			return 0, err
		}
		if err := c.checkSignatureFile(sig, "META-INF/"+b.base+".SF", file, opt); err != nil {
			return 0, err
		}
		if sig.weak != "" {
			c.warnings = append(c.warnings, b.name+" does not count: "+sig.weak)
		}
		c.signatures = append(c.signatures, sig)
	}
	return at, nil
}

// metaFile takes the name of a signature file apart, in capital letters.
func metaFile(upper string) (base, ext string, ok bool) {
	name, ok := strings.CutPrefix(upper, "META-INF/")
	if !ok || strings.Contains(name, "/") {
		return "", "", false
	}
	base, ext, ok = strings.Cut(name, ".")
	if i := strings.LastIndexByte(name, '.'); i >= 0 {
		base, ext = name[:i], name[i+1:]
	}
	switch ext {
	case "SF", "RSA", "DSA", "EC":
		return base, ext, ok
	}
	return "", "", false
}

// digestNames are the digests that count, strongest first, with their names in manifests.
var digestNames = []struct {
	attr, alg string
	weak      bool
}{
	{"SHA-512-Digest", "SHA-512", false},
	{"SHA-384-Digest", "SHA-384", false},
	{"SHA-256-Digest", "SHA-256", false},
	{"SHA1-Digest", "SHA-1", true},
	{"SHA-1-Digest", "SHA-1", true},
	{"SHA-Digest", "SHA-1", true},
}

// A digest is an expected value with the hash that gives it.
type digest struct {
	alg  string
	new  func() hash.Hash
	want []byte
}

func (d digest) fits(b []byte) bool {
	h := d.new()
	h.Write(b)
	return bytes.Equal(h.Sum(nil), d.want)
}

// digests reads the attributes "<alg>-Digest<suffix>" of a section. An empty result without
// error means that there is none that counts.
func digests(s section, suffix string, opt JarOptions) ([]digest, error) {
	var out []digest
	for _, n := range digestNames {
		v := s.get(n.attr + suffix)
		if v == "" || n.weak && opt.Strict {
			continue
		}
		want, err := base64.StdEncoding.DecodeString(v)
		if err != nil {
			return nil, fmt.Errorf("%s%s is not base64", n.attr, suffix)
		}
		h, err := newHash(n.alg)
		if err != nil {
			return nil, err
		}
		out = append(out, digest{n.alg, h, want})
	}
	return out, nil
}

// newHash is lockss.NewHash with SHA-384, which no poll uses.
func newHash(alg string) (func() hash.Hash, error) {
	if alg == "SHA-384" {
		return newSHA384, nil
	}
	return lockss.NewHash(alg)
}

// weakReason explains that a section has only digests that do not count.
func weakReason(s section, suffix string, opt JarOptions) string {
	switch {
	case s.get("MD5-Digest"+suffix) != "":
		return "its digests are MD5, which anyone can forge; have it signed again with SHA-256"
	case opt.Strict && s.get("SHA1-Digest"+suffix)+s.get("SHA-1-Digest"+suffix)+s.get("SHA-Digest"+suffix) != "":
		return "its digests are SHA-1, which the strict rule does not accept; have it signed again with SHA-256"
	}
	return ""
}

// checkSignatureFile compares a signature file with the manifest and notes which sections
// it signs (plugin-packaging.md 2.2).
func (c *contents) checkSignatureFile(sig *signature, name string, b []byte, opt JarOptions) error {
	main, parts, err := parseManifest(b)
	if err != nil {
		return jarError(name, "%v", err)
	}
	if sig.weak != "" {
		return nil
	}
	whole := false
	ds, err := digests(main, "-Manifest", opt)
	if err != nil {
		return jarError(name, "%v", err)
	}
	for _, d := range ds {
		whole = whole || d.fits(c.manifest)
	}
	if !whole {
		ds, err := digests(main, "-Manifest-Main-Attributes", opt)
		if err != nil {
			return jarError(name, "%v", err)
		}
		for _, d := range ds {
			if !d.fits(c.mainSection.raw) {
				return jarError(name, "the manifest's main attributes were changed after signing; fetch the archive again or have it signed again")
			}
		}
	}
	for _, p := range parts {
		s, ok := c.sections[p.name]
		if !ok {
			return jarError(name, "signs %s, which the manifest does not name", p.name)
		}
		if !whole {
			ds, err := digests(p, "", opt)
			if err != nil {
				return jarError(name, "%s: %v", p.name, err)
			}
			if len(ds) == 0 {
				if why := weakReason(p, "", opt); why != "" {
					sig.weak = why
					c.warnings = append(c.warnings, name+": "+why)
					return nil
				}
				return jarError(name, "no digest for %s", p.name)
			}
			for _, d := range ds {
				if !d.fits(s.raw) {
					return jarError(p.name, "its manifest section was changed after signing; fetch the archive again or have it signed again")
				}
			}
		}
		sig.covers[p.name] = true
	}
	return nil
}

// readContent compares each file with its manifest section.
func (c *contents) readContent(files []*zip.File, opt JarOptions) error {
	total := int64(0)
	unsigned := 0
	for _, f := range files {
		if strings.HasSuffix(f.Name, "/") {
			continue
		}
		s, ok := c.sections[f.Name]
		for _, prefix := range []string{"./", "/"} {
			if !ok {
				s, ok = c.sections[prefix+f.Name]
			}
		}
		_, marked := s.attrs["lockss-plugin"]
		e := JarEntry{Name: f.Name, Plugin: ok && marked}
		var ds []digest
		if ok {
			var err error
			if ds, err = digests(s, "", opt); err != nil {
				return jarError(f.Name, "%v", err)
			}
			if len(ds) == 0 {
				why := weakReason(s, "", opt)
				if why == "" && len(c.signatures) == 0 {
					why = c.unsignedReason()
				} else if why == "" {
					why = "the manifest has no digest of it; have the archive signed again"
				}
				return jarError(f.Name, "%s", why)
			}
		}
		var keep bytes.Buffer
		ws := []io.Writer{io.Discard}
		for i := range ds {
			h := ds[i].new()
			ds[i].new = func() hash.Hash { return h }
			ws = append(ws, h)
		}
		xml := strings.HasSuffix(strings.ToLower(f.Name), ".xml")
		if xml && ok {
			ws = append(ws, &limited{&keep, maxDefinition + 1})
		}
		n, err := copyEntry(io.MultiWriter(ws...), f, maxEntry)
		if err != nil {
			return err
		}
		if total += n; total > maxUnpacked {
			return jarError("", "more than %d bytes unpacked", maxUnpacked)
		}
		e.Size = n
		for _, d := range ds {
			if !bytes.Equal(d.new().Sum(nil), d.want) {
				return jarError(f.Name, "changed after signing (%s digest differs); fetch the archive again or have it signed again", d.alg)
			}
		}
		if ok {
			sig := c.firstSignature(s.name)
			if sig == nil {
				return jarError(f.Name, "%s", c.unsignedReason())
			}
			c.signer[f.Name] = sig
			if xml {
				c.xml[f.Name] = keep.Bytes()
			}
		} else if _, _, late := metaFile(strings.ToUpper(f.Name)); late {
			c.moreWarnings = append(c.moreWarnings, f.Name+" comes after the content and does not count")
		} else {
			unsigned++
			c.moreWarnings = append(c.moreWarnings, f.Name+" is not in the manifest and is not used")
		}
		c.entries = append(c.entries, e)
	}
	if len(c.signer) == 0 && unsigned > 0 && len(c.signatures) == 0 {
		return jarError("", "%s", c.unsignedReason())
	}
	return nil
}

func (c *contents) firstSignature(name string) *signature {
	for _, s := range c.signatures {
		if s.weak == "" && s.covers[name] {
			return s
		}
	}
	return nil
}

func (c *contents) unsignedReason() string {
	for _, s := range c.signatures {
		if s.weak != "" {
			return "not signed by a signature that counts: " + s.weak
		}
	}
	if len(c.signatures) == 0 {
		return "not signed: there is no signature before the content; have the archive signed (armarium plugin sign)"
	}
	return "not covered by the archive's signature: it was added after signing; have the archive signed again"
}

// limited keeps the first n bytes written to it.
type limited struct {
	b *bytes.Buffer
	n int
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.n - l.b.Len(); room > 0 {
		l.b.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

// load makes the definitions of the marked plugins. Ancestors come from the same archive.
func (c *contents) load(j *Jar, o LoadOptions) {
	parent := func(id string) ([]byte, error) {
		if b, ok := c.xml[strings.ReplaceAll(id, ".", "/")+".xml"]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s: %w", id, fs.ErrNotExist)
	}
	marks := 0
	byID := map[string]bool{}
	for _, name := range c.order {
		s := c.sections[name]
		if _, marked := s.attrs["lockss-plugin"]; !marked {
			continue
		}
		id, isXML, ok := pluginID(name)
		if !ok {
			continue
		}
		marks++
		if !isXML {
			if _, err := parent(id); err != nil { // a definition is preferred over a class
				j.Failures = append(j.Failures, &DefinitionError{ID: id, Err: errors.New("the plugin is a Java class, which this node does not run; ask for a definition in XML")})
			}
			continue
		}
		if byID[id] {
			continue
		}
		byID[id] = true
		b, err := parent(id)
		if err != nil {
			j.Failures = append(j.Failures, &DefinitionError{ID: id, Err: errors.New("the manifest names it, but the archive has no such file")})
			continue
		}
		d, err := o.Parse(id, b, parent)
		if err != nil {
			j.Failures = append(j.Failures, err)
			continue
		}
		j.Definitions = append(j.Definitions, d)
	}
	if marks == 0 {
		j.Warnings = append(j.Warnings, "no file is marked with Lockss-Plugin: true in the manifest; there is no plugin in this archive")
	}
}

// pluginID is the id that an entry name gives.
func pluginID(name string) (id string, xml, ok bool) {
	name = strings.TrimPrefix(strings.TrimPrefix(name, "./"), "/")
	lower := strings.ToLower(name)
	switch {
	case strings.HasSuffix(lower, ".xml"):
		return strings.ReplaceAll(name[:len(name)-4], "/", "."), true, true
	case strings.HasSuffix(lower, ".class"):
		return strings.ReplaceAll(name[:len(name)-6], "/", "."), false, true
	}
	return "", false, false
}
