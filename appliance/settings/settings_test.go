package settings

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"armarium/daemon/account"
	"armarium/daemon/javaprops"
)

var update = flag.Bool("update", false, "rewrite golden files")

const good = `# one node
LOCKSS_HOSTNAME=node1.example.org
LOCKSS_IPADDR=192.0.2.7
LOCKSS_EMAIL=admin@example.org
LOCKSS_PROPS_URL="-p http://props.example.org/lockss.xml -p http://props.example.org/more.xml"
LOCKSS_TEST_GROUP=test;beta
LOCKSS_DISK_PATHS=/cache0/gamma;/cache1/gamma
LOCKSS_ADMIN_USER=lockss
LOCKSS_JAVA_HEAP=4096m
ADMIN_PASSWORD="correct horse"
NETWORK=static
ADDRESS=192.0.2.7/24
GATEWAY=192.0.2.1
DNS=192.0.2.1, 192.0.2.2
NTP_SERVERS=ntp1.example.org 192.0.2.3:1123
CACHE_DISKS=serial:A1,B2
LOCK_REQUIRE=hardware
DETACH=no
`

var testKeys = Keys{
	NodeID: "00112233445566778899aabbccddeeff",
	Salt:   []byte("0123456789abcdef"),
	Files:  map[string][]byte{"node.jceks": []byte("key store"), "ca.pem": []byte("certificate")},
}

func answers(t testing.TB) *Answers {
	t.Helper()
	a, err := ParseAnswers([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func seal(t testing.TB, k Keys) []byte {
	t.Helper()
	b, err := Seal(*answers(t), k)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseAnswersDefaults(t *testing.T) {
	a, err := ParseAnswers([]byte("LOCKSS_HOSTNAME=n.example.org\r\nLOCKSS_IPADDR=10.1.2.3\nLOCKSS_EMAIL=a@example.org\n" +
		"LOCKSS_PROPS_URL=http://props.example.org/lockss.xml\nLOCKSS_ADMIN_USER=u\nADMIN_PASSWORD=12345678\n"))
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{
		"LOCKSS_ACCESS_SUBNET": "10.1.2.0/24", "LOCKSS_V3_PORT": "9729", "LOCKSS_PROXY_PORT": "8080",
		"LOCKSS_UI_PORT": "8081", "LOCKSS_DISK_PATHS": "/cache0/gamma", "LOCKSS_TMPDIR": "/cache0/gamma/tmp",
		"LOCKSS_TEST_GROUP": "prod", "LOCKSS_PROPS_PROXY": "NONE", "LOCKSS_MAILHUB": "localhost",
		"LOCKSS_CONFIG_FAILOVER_ENABLE": "Y", "LOCKSS_CLEAR_TMPDIR": "yes",
	} {
		if got := a.Classic[k]; got != want {
			t.Errorf("%s: got %q, want %q", k, got, want)
		}
	}
	if a.Network.Mode != DHCP || a.CacheDisks != DisksByLabel || a.LockRequire != LockSoftware || !a.Detach {
		t.Errorf("appliance defaults: %+v", a)
	}
}

// Each row replaces a line of the good file, or adds one; the message must name that line.
func TestParseAnswersFaults(t *testing.T) {
	for _, c := range []struct{ name, line, want string }{
		{"address", "LOCKSS_IPADDR=300.0.2.7", `LINE: LOCKSS_IPADDR "300.0.2.7" is not an IPv4 address; write four numbers`},
		{"all zero", "LOCKSS_IPADDR=0.0.0.0", `LINE: LOCKSS_IPADDR "0.0.0.0" is not`},
		{"missing", "LOCKSS_EMAIL=", "LOCKSS_EMAIL is missing; give the mail address"},
		{"mistyped", "NETWROK=dhcp", "LINE: NETWROK is not a known key; did you mean NETWORK?"},
		{"no key", "hello world", "LINE: is not KEY=value; begin the line"},
		{"back-quote", "LOCKSS_HOSTNAME=`id`", "LINE: LOCKSS_HOSTNAME holds a back-quote"},
		{"host", "LOCKSS_HOSTNAME=a_b", `LINE: LOCKSS_HOSTNAME "a_b" is not a host name`},
		{"gateway outside", "GATEWAY=198.51.100.1", "LINE: GATEWAY 198.51.100.1 is not inside 192.0.2.0/24"},
		{"address differs", "ADDRESS=192.0.2.8/24", "LOCKSS_IPADDR 192.0.2.7 is not the ADDRESS 192.0.2.8"},
		{"low port", "LOCKSS_UI_PORT=80", `LINE: LOCKSS_UI_PORT "80" is not a usable port`},
		{"same port", "LOCKSS_UI_PORT=9729", "LINE: LOCKSS_UI_PORT 9729 is also LOCKSS_V3_PORT"},
		{"disk", "LOCKSS_DISK_PATHS=/home/x", `LINE: LOCKSS_DISK_PATHS "/home/x" is not a content directory`},
		{"disk number", "LOCKSS_DISK_PATHS=/cache100/gamma", "LINE: LOCKSS_DISK_PATHS"},
		{"disk twice", "LOCKSS_DISK_PATHS=/cache0/gamma;/cache0/gamma/", `names "/cache0/gamma" twice`},
		{"subnet", "LOCKSS_ACCESS_SUBNET=192.0.*.7", "LINE: LOCKSS_ACCESS_SUBNET"},
		{"short password", "ADMIN_PASSWORD=short", "LINE: ADMIN_PASSWORD is too short"},
		{"two passwords", "LOCKSS_ADMIN_PASSWD=SHA-256:00", "ADMIN_PASSWORD and LOCKSS_ADMIN_PASSWD are both given"},
		{"props", "LOCKSS_PROPS_URL=props.example.org/lockss.xml", "LINE: LOCKSS_PROPS_URL"},
		{"ntp", "NTP_SERVERS=a b c d e", "LINE: NTP_SERVERS has more than 4 servers"},
		{"dns", "DNS=dns.example.org", "LINE: DNS"},
		{"serials", "CACHE_DISKS=serial:", "LINE: CACHE_DISKS names no serial number"},
		{"tmp", "LOCKSS_TMPDIR=/etc", `LINE: LOCKSS_TMPDIR "/etc" is not the directory tmp of`},
		{"tmp is content root", "LOCKSS_TMPDIR=/cache0/gamma/", `LINE: LOCKSS_TMPDIR "/cache0/gamma/" is not`},
		{"tmp is content root itself", "LOCKSS_TMPDIR=/cache0/gamma/.", `LINE: LOCKSS_TMPDIR "/cache0/gamma/." is not`},
		{"tmp is content", "LOCKSS_TMPDIR=/cache0/gamma/cache", `LINE: LOCKSS_TMPDIR "/cache0/gamma/cache" is not`},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, _, ok := strings.Cut(c.line, "=")
			lines := strings.Split(strings.TrimSuffix(good, "\n"), "\n")
			i := slices.IndexFunc(lines, func(l string) bool { return ok && strings.HasPrefix(l, key+"=") })
			if i < 0 {
				i = len(lines)
				lines = append(lines, "")
			}
			lines[i] = c.line
			a, err := ParseAnswers([]byte(strings.Join(lines, "\n")))
			if err == nil {
				t.Fatalf("accepted: %+v", a)
			}
			want := strings.Replace(c.want, "LINE", fmt.Sprintf("line %d", i+1), 1)
			if !strings.Contains(err.Error(), want) {
				t.Errorf("got  %v\nwant …%s…", err, want)
			}
			if _, ok := errors.AsType[*AnswerError](err); !ok {
				t.Errorf("%v is no *AnswerError", err)
			}
		})
	}
	_, err := ParseAnswers([]byte("LOCKSS_HOSTNAME=a\nLOCKSS_HOSTNAME=b\n"))
	if err == nil || !strings.Contains(err.Error(), "line 2: LOCKSS_HOSTNAME was answered in line 1 already") {
		t.Errorf("twice answered: %v", err)
	}
}

func TestSealOpen(t *testing.T) {
	slot := seal(t, testKeys)
	if !bytes.Equal(slot, seal(t, testKeys)) {
		t.Error("sealing twice gives different bytes")
	}
	s, err := Open(slot)
	if err != nil {
		t.Fatal(err)
	}
	if s.Generation != 1 || s.Code != SealCode(slot) || len(s.Code) != 19 {
		t.Errorf("generation %d, code %q", s.Generation, s.Code)
	}
	if !maps.EqualFunc(s.Keys, testKeys.Files, bytes.Equal) {
		t.Errorf("keys: %q", s.Keys)
	}
	if s.Config["LOCKSS_JAVA_HEAP"] != "4096m" {
		t.Error("an unknown classic key was lost")
	}
	if bytes.Contains(slot, []byte("correct horse")) {
		t.Error("the password stands in the slot in clear")
	}
	// Made with: hashlib.pbkdf2_hmac("sha256", b"correct horse", b"0123456789abcdef", 600000)
	const hash = "$pbkdf2-sha256$i=600000$MDEyMzQ1Njc4OWFiY2RlZg$kYKAg/dg7WC7VQ4k8+iaopu8snxCGdA0xMTwPC5tudk"
	if got := s.Config["LOCKSS_ADMIN_PASSWD"]; got != hash {
		t.Errorf("password hash %q, want %q", got, hash)
	}
	if !account.CheckPassword(hash, "correct horse") || account.CheckPassword(hash, "correct horsf") {
		t.Error("the daemon does not check the sealed password")
	}
	if got := s.Mounts(); !slices.Equal(got, []string{"/cache0", "/cache1"}) {
		t.Errorf("mounts %q", got)
	}
	if got := s.DaemonArgs(); !slices.Equal(got, []string{"-g", "test;beta", "-p", "http://props.example.org/lockss.xml", "-p", "http://props.example.org/more.xml"}) {
		t.Errorf("arguments %q", got)
	}
	for serial, want := range map[string]bool{"A1": true, "B2": true, "A": false, "": false} {
		if got := s.BlankDisk(serial); got != want {
			t.Errorf("blank disk %q: %v", serial, got)
		}
	}
	n := s.Next()
	if n.NodeID != testKeys.NodeID || n.Generation != 2 || bytes.Equal(n.Salt, testKeys.Salt) {
		t.Errorf("next keys %+v", n)
	}
}

// The bytes of the body are a format: they may not change between releases.
func TestSlotGolden(t *testing.T) {
	slot := seal(t, testKeys)
	body, _, _, err := splitSlot(slot)
	if err != nil {
		t.Fatal(err)
	}
	got := slot[:headerSize+len(body)]
	path := filepath.Join("testdata", "slot.bin")
	if *update {
		os.MkdirAll("testdata", 0o755)
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("slot differs from %s", path)
	}
}

// One changed byte anywhere is a clear error (appliance.md 5.4).
func TestChangedByte(t *testing.T) {
	slot := seal(t, testKeys)
	body, _, _, _ := splitSlot(slot)
	end := headerSize + len(body)
	try := func(i int) {
		slot[i] ^= 0x40
		_, err := Open(slot)
		slot[i] ^= 0x40
		if _, ok := errors.AsType[*SlotError](err); !ok {
			t.Fatalf("byte %d changed: got %v, want a *SlotError", i, err)
		}
	}
	step := 1
	if testing.Short() {
		step = 17
	}
	for i := 0; i < end; i += step {
		try(i)
	}
	for i := end; i < SlotSize; i += 40_009 {
		try(i)
	}
	try(SlotSize - 1)
	if _, err := Open(slot); err != nil {
		t.Fatalf("unchanged: %v", err)
	}
}

// rehash makes a header valid again after a test changed it.
func rehash(slot []byte) []byte {
	sum := sha256.Sum256(slot[:64])
	copy(slot[64:], sum[:])
	return slot
}

func TestOpenRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   string
	}{
		{"short", func(b []byte) []byte { return b[:1000] }, "settings slot: header: the slot has 1000 bytes"},
		{"unsealed", func(b []byte) []byte { b[12] = 0; return rehash(b) }, "header: written but not sealed"},
		{"flags", func(b []byte) []byte { b[13] = 1; return rehash(b) }, "header: unknown flags 0x101"},
		{"signed", func(b []byte) []byte { b[12] = 3; return rehash(b) }, "signature: signed with the key of a network"},
		{"generation 0", func(b []byte) []byte { b[16] = 0; return rehash(b) }, "header: generation 0"},
		{"length", func(b []byte) []byte { binary.LittleEndian.PutUint64(b[24:], 1<<63); return rehash(b) }, "header: body of"},
		{"layout 0", func(b []byte) []byte { b[8] = 0; return rehash(b) }, "header: layout version 0"},
		{"other archive", func([]byte) []byte { b, _ := appendSlot([]byte("no archive"), 1); return b }, "archive: "},
		{"empty archive", func([]byte) []byte { b, _ := appendSlot(make([]byte, 1024), 1); return b }, "archive: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.change(bytes.Clone(seal(t, testKeys))))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	newer := bytes.Clone(seal(t, testKeys))
	newer[8] = 2
	if _, err := Open(rehash(newer)); !errors.Is(err, ErrNewer) {
		t.Errorf("newer layout: %v", err)
	}
}

// appliance.md 5.5.
func TestChoose(t *testing.T) {
	one := seal(t, testKeys)
	k := testKeys
	k.Generation = 2
	two := seal(t, k)
	k.Generation, k.NodeID = 1, strings.Repeat("a", 32)
	other := seal(t, k)
	k.ImageID = "image-a"
	bound := seal(t, k)
	zeroes := make([]byte, SlotSize)
	torn := bytes.Clone(one)
	torn[700] ^= 1
	garbage := bytes.Repeat([]byte{0x5a}, SlotSize)
	newer := bytes.Clone(one)
	newer[8] = 9
	rehash(newer)
	for _, c := range []struct {
		name     string
		a, b     []byte
		want     Verdict
		slot     int
		problems int
	}{
		{"equal", one, one, Good, 0, 0},
		{"second newer", one, two, Good, 1, 0},
		{"first newer", two, one, Good, 0, 0},
		{"first torn", torn, one, OneBad, 1, 1},
		{"second torn", one, torn, OneBad, 0, 1},
		{"second empty", one, zeroes, OneBad, 0, 1},
		{"both empty", zeroes, zeroes, NotConfigured, 0, 0},
		{"both torn", torn, torn, Damaged, 0, 2},
		{"torn and empty", torn, zeroes, Damaged, 0, 1},
		{"both garbage", garbage, garbage, Damaged, 0, 2},
		{"equal generation, different", one, other, Damaged, 0, 1},
		{"newer release", newer, one, Newer, 0, 1},
		{"other image", bound, bound, WrongImage, 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Choose([2][]byte{c.a, c.b}, "image-b")
			if got.Verdict != c.want || got.Slot != c.slot || len(got.Problems) != c.problems {
				t.Errorf("got %s from slot %d, problems %v", got.Verdict, got.Slot, got.Problems)
			}
			if (got.Sealed != nil) != (c.want == Good || c.want == OneBad) {
				t.Errorf("sealed settings given: %v", got.Sealed != nil)
			}
		})
	}
	if got := Choose([2][]byte{bound, bound}, "image-a"); got.Verdict != Good {
		t.Errorf("right image: %v", got)
	}
}

func TestPlatformFile(t *testing.T) {
	s, err := Open(seal(t, testKeys))
	if err != nil {
		t.Fatal(err)
	}
	props, err := javaprops.Parse(s.PlatformFile())
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(props, s.PlatformProperties()) {
		t.Errorf("local.txt holds %v", props)
	}
	for k, want := range map[string]string{
		"org.lockss.platform.v3.identity":    "TCP:[192.0.2.7]:9729",
		"org.lockss.platform.diskSpacePaths": "/cache0/gamma;/cache1/gamma",
		"org.lockss.platform.version":        "Appliance-1",
		"org.lockss.platform.accesssubnet":   "192.0.2.0/24",
		"org.lockss.platform.smtpport":       "25",
		"org.lockss.platform.tmpDir":         "/cache0/gamma/tmp",
		"org.lockss.ui.port":                 "8081",
	} {
		if props[k] != want {
			t.Errorf("%s: got %q, want %q", k, props[k], want)
		}
	}
	s.Config["LOCKSS_EXTERNAL_IPADDR"] = "198.51.100.9"
	if got := s.PlatformProperties()["org.lockss.platform.v3.identity"]; got != "TCP:[198.51.100.9]:9729" {
		t.Errorf("behind NAT: %q", got)
	}
}

func FuzzOpen(f *testing.F) {
	slot := seal(f, testKeys)
	body, _, _, _ := splitSlot(slot)
	f.Add(slot[:headerSize], body)
	f.Add(make([]byte, headerSize), []byte{})
	f.Fuzz(func(t *testing.T, header, body []byte) {
		// The hashes are made right, so that the fuzzer reaches what is behind them.
		if len(header) < headerSize || len(body) > maxBody {
			return
		}
		slot := make([]byte, SlotSize)
		copy(slot, header[:headerSize])
		copy(slot[headerSize:], body)
		binary.LittleEndian.PutUint64(slot[24:], uint64(len(body)))
		sum := sha256.Sum256(body)
		copy(slot[32:], sum[:])
		s, err := Open(rehash(slot))
		if err != nil {
			return
		}
		aj, err := canonical(s.Appliance)
		if err != nil {
			t.Fatal(err)
		}
		if s.Code == "" || len(s.Mounts()) == 0 || s.UIPort() == 0 || len(s.DaemonArgs()) < 4 || !bytes.Contains(body, aj) {
			t.Errorf("accepted, but of no use: %+v", s)
		}
		s.PlatformFile()
	})
}

func FuzzParseAnswers(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnswers(b)
		if err != nil {
			return
		}
		a.AdminPassword = "" // hashing is slow and not what is tested
		slot, err := Seal(*a, testKeys)
		if err != nil {
			t.Fatalf("checked answers cannot be sealed: %v", err)
		}
		if _, err := Open(slot); err != nil {
			t.Fatalf("sealed answers cannot be opened: %v", err)
		}
	})
}
