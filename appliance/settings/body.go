package settings

import (
	"archive/tar"
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// Limits of the archive.
const (
	maxKeyFiles = 64
	maxKeyFile  = 256 << 10 // bytes
)

const (
	nameConfig    = "config.dat"
	nameAppliance = "appliance.json"
	keysFolder    = "keys/"
)

// PBKDF2 of the admin password; 600 000 rounds of SHA-256 take about 0.2 s.
const (
	pbkdf2Rounds = 600_000
	saltSize     = 16
	hashSize     = 32
)

// Keys are the inputs of a seal that are not answers. The zero value cannot be sealed: a
// salt is required when a password is to be hashed, and a node id always.
type Keys struct {
	NodeID     string            // 32 hex digits; keep it when the settings of a node are sealed again
	Salt       []byte            // 16 random bytes for the admin password
	Generation uint64            // 0: 1. A later seal of the same stick counts up
	ImageID    string            // the only image that may use the settings; "": any
	Files      map[string][]byte // key files by name, "node.jceks"
}

// NewKeys makes fresh random values: those of a new node.
func NewKeys() Keys {
	id, salt := make([]byte, 16), make([]byte, saltSize)
	rand.Read(id)
	rand.Read(salt)
	return Keys{NodeID: hex.EncodeToString(id), Salt: salt, Generation: 1}
}

// Next gives the keys for sealing the same node again: same node id and files, next
// generation, fresh salt.
func (s *Sealed) Next() Keys {
	k := NewKeys()
	k.NodeID = s.Appliance.NodeID
	k.Generation = s.Generation + 1
	k.ImageID = s.Appliance.ImageID
	k.Files = maps.Clone(s.Keys)
	return k
}

// An Appliance is what the classic file has no key for: appliance.json.
type Appliance struct {
	CacheDisks  string   `json:"cache_disks"` // "label", "any-blank", "serial:A,B"
	DaemonGID   int      `json:"daemon_gid"`
	DaemonUID   int      `json:"daemon_uid"`
	Detach      bool     `json:"detach"`
	ImageID     string   `json:"image_id"`
	LockRequire string   `json:"lock_require"` // "software", "hardware"
	Network     Network  `json:"network"`
	NodeID      string   `json:"node_id"`
	NTPServers  []string `json:"ntp_servers"`
}

// Seal makes a slot of answers and keys. It is a pure function: the same inputs give the
// same 2 MiB.
func Seal(a Answers, k Keys) ([]byte, error) {
	classic := maps.Clone(a.Classic)
	if classic == nil {
		return nil, errors.New("seal: no answers")
	}
	if a.AdminPassword != "" {
		h, err := hashPassword(a.AdminPassword, k.Salt)
		if err != nil {
			return nil, fmt.Errorf("seal: %w", err)
		}
		classic["LOCKSS_ADMIN_PASSWD"] = h
	}
	ap := Appliance{
		CacheDisks: a.CacheDisks, DaemonUID: DaemonID, DaemonGID: DaemonID, Detach: a.Detach,
		ImageID: k.ImageID, LockRequire: a.LockRequire, Network: a.Network,
		NodeID: k.NodeID, NTPServers: a.NTPServers,
	}
	if a.NodeID != "" {
		ap.NodeID = a.NodeID
	}
	if !nodeID(ap.NodeID) {
		return nil, fmt.Errorf("seal: node id %q is not 32 hex digits; make keys with NewKeys", ap.NodeID)
	}
	cfg := appendConfig(nil, classic)
	if !maps.Equal(parseConfig(cfg), classic) {
		return nil, errors.New("seal: an answer holds characters that config.dat cannot carry; remove back-quotes and control characters")
	}
	aj, err := canonical(ap)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	body, err := pack(cfg, aj, k.Files)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return appendSlot(body, max(k.Generation, 1))
}

// hashPassword gives "$pbkdf2-sha256$i=600000$<salt>$<hash>", base64 without padding.
func hashPassword(password string, salt []byte) (string, error) {
	if len(salt) != saltSize {
		return "", fmt.Errorf("password salt has %d bytes, not %d", len(salt), saltSize)
	}
	h, err := pbkdf2.Key(sha256.New, password, salt, pbkdf2Rounds, hashSize)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	enc := base64.RawStdEncoding
	return fmt.Sprintf("$pbkdf2-sha256$i=%d$%s$%s", pbkdf2Rounds, enc.EncodeToString(salt), enc.EncodeToString(h)), nil
}

// appendConfig appends config.dat: the questionnaire's keys in its order, then others sorted.
func appendConfig(dst []byte, m map[string]string) []byte {
	keys := slices.Clone(classicOrder)
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if !slices.Contains(classicOrder, k) {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		v, ok := m[k]
		if !ok {
			continue
		}
		if v == "" || strings.ContainsFunc(v, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/@%+,-", r)
		}) {
			v = `"` + v + `"`
		}
		dst = append(dst, k+"="+v+"\n"...)
	}
	return dst
}

// parseConfig reads config.dat as data (config.md 2.1): other lines are ignored, lines with
// a back-quote dropped, the last line of a key counts.
func parseConfig(b []byte) map[string]string {
	m := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		if k, v, ok := keyValue(strings.TrimSuffix(line, "\r")); ok && !strings.Contains(line, "`") {
			m[k] = v
		}
	}
	return m
}

// canonical writes JSON with sorted keys, no blanks and no HTML escapes.
func canonical(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	// Through a map, because structs keep the order of their fields.
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// pack makes the one archive that these contents have.
func pack(config, appliance []byte, files map[string][]byte) ([]byte, error) {
	all := map[string][]byte{nameConfig: config, nameAppliance: appliance}
	if len(files) > maxKeyFiles {
		return nil, fmt.Errorf("%d key files, at most %d", len(files), maxKeyFiles)
	}
	for n, b := range files {
		if !keyName(n) {
			return nil, fmt.Errorf("key file name %q: use letters, digits, dots, hyphens, underscores", n)
		}
		if len(b) > maxKeyFile {
			return nil, fmt.Errorf("key file %s has %d bytes, at most %d", n, len(b), maxKeyFile)
		}
		all[keysFolder+n] = b
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, n := range slices.Sorted(maps.Keys(all)) {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: n, Size: int64(len(all[n])), Mode: 0o600,
			ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("archive %s: %w", n, err)
		}
		if _, err := w.Write(all[n]); err != nil {
			return nil, fmt.Errorf("archive %s: %w", n, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return out.Bytes(), nil
}

func keyName(n string) bool {
	return n != "" && len(n) <= 64 && n[0] != '.' && !strings.ContainsFunc(n, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-", r)
	})
}

// parseBody reads the archive, and refuses any that pack would not have made.
func parseBody(body []byte) (*Sealed, error) {
	s := &Sealed{Keys: map[string][]byte{}}
	var config, appliance []byte
	r := tar.NewReader(bytes.NewReader(body))
	for range maxKeyFiles + 3 {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, bad("archive", "unreadable: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			return nil, bad("archive", "%q is not a plain file", h.Name)
		}
		if h.Size > maxBody {
			return nil, bad("archive", "%q claims %d bytes", h.Name, h.Size)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return nil, bad("archive", "%q: %w", h.Name, err)
		}
		name, isKey := strings.CutPrefix(h.Name, keysFolder)
		switch {
		case h.Name == nameConfig:
			config = b
		case h.Name == nameAppliance:
			appliance = b
		case isKey && keyName(name):
			s.Keys[name] = b
		default:
			return nil, bad("archive", "unexpected file %q", h.Name)
		}
	}
	if again, err := pack(config, appliance, s.Keys); err != nil {
		return nil, bad("archive", "%w", err)
	} else if !bytes.Equal(again, body) {
		return nil, bad("archive", "not in the one form settings are sealed in")
	}
	s.Config = parseConfig(config)
	for _, k := range []string{"LOCKSS_HOSTNAME", "LOCKSS_IPADDR", "LOCKSS_DISK_PATHS", "LOCKSS_PROPS_URL"} {
		if s.Config[k] == "" {
			return nil, bad("config.dat", "no %s", k)
		}
	}
	for _, k := range []string{"LOCKSS_UI_PORT", "LOCKSS_V3_PORT", "LOCKSS_PROXY_PORT"} {
		if !portNumber(s.Config[k], 1) {
			return nil, bad("config.dat", "%s %q is not a port", k, s.Config[k])
		}
	}
	if _, ok := propsURLs(s.Config["LOCKSS_PROPS_URL"]); !ok {
		return nil, bad("config.dat", "LOCKSS_PROPS_URL is not understood")
	}
	paths := strings.Split(s.Config["LOCKSS_DISK_PATHS"], ";")
	for _, p := range paths {
		if _, ok := diskNumber(p); !ok {
			return nil, bad("config.dat", "LOCKSS_DISK_PATHS names %q", p)
		}
	}
	if !mayBeTmp(s.TmpDir(), paths) {
		return nil, bad("config.dat", "LOCKSS_TMPDIR %q is not the directory tmp of a content disk", s.TmpDir())
	}
	d := json.NewDecoder(bytes.NewReader(appliance))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.Appliance); err != nil {
		return nil, bad("appliance.json", "%w", err)
	}
	if again, err := canonical(s.Appliance); err != nil || !bytes.Equal(again, appliance) {
		return nil, bad("appliance.json", "not in canonical form")
	}
	if a := s.Appliance; a.DaemonUID <= 0 || a.DaemonGID <= 0 || !nodeID(a.NodeID) {
		return nil, bad("appliance.json", "daemon id or node id is missing")
	}
	return s, nil
}
