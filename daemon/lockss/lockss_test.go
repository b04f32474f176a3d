package lockss

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// vectors reads testdata/name into v.
func vectors(t testing.TB, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// TestPeerIDVectors tries all cases of peer-id.json. Departures by lcap-v3.md 20.3: the short
// IPv4 forms TCP:[10.1]:9729 and TCP:[1]:9729 are refused, port 0 is no V3 identity.
func TestPeerIDVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Input, Kind, Normalized, Address string
			Accepted                         bool
			Port                             uint16
		}
	}
	vectors(t, "peer-id.json", &file)
	if len(file.Cases) != 33 {
		t.Fatalf("%d cases, want 33", len(file.Cases))
	}
	refused := map[string]bool{"TCP:[10.1]:9729": true, "TCP:[1]:9729": true}
	for _, c := range file.Cases {
		id, err := FindPeerID(c.Input)
		v1 := (*V1Error)(nil)
		switch {
		case c.Accepted && c.Kind == "V3" && !refused[c.Input] && c.Port != 0:
			if err != nil || string(id) != c.Normalized {
				t.Errorf("FindPeerID(%q) = %q, %v, want %q", c.Input, id, err, c.Normalized)
			}
			want := netip.AddrPortFrom(netip.MustParseAddr(c.Address), c.Port)
			if got := id.AddrPort(); got != want {
				t.Errorf("%q.AddrPort() = %v, want %v", id, got, want)
			}
			if PeerIDFrom(id.AddrPort()) != id {
				t.Errorf("PeerIDFrom(%v) = %q, want %q", id.AddrPort(), PeerIDFrom(id.AddrPort()), id)
			}
		case c.Accepted && !refused[c.Input]:
			if !errors.As(err, &v1) || v1.Addr.String() != c.Normalized {
				t.Errorf("FindPeerID(%q) = %q, %v, want the V1 identity %s", c.Input, id, err, c.Normalized)
			}
		default:
			if err == nil || errors.As(err, &v1) || !errors.Is(err, ErrPeerID) {
				t.Errorf("FindPeerID(%q) = %q, %v, want refused", c.Input, id, err)
			}
		}
	}
}

func TestParsePeerIDWantsTheWholeText(t *testing.T) {
	for in, want := range map[string]PeerID{
		" tcp:[10.0.0.1]:09729 ":     "TCP:[10.0.0.1]:9729",
		"TCP:[2001:DB8::1]:9729":     "TCP:[2001:db8:0:0:0:0:0:1]:9729",
		"xTCP:[10.0.0.7]:9729":       "",
		"TCP:[10.0.0.7]:9729y":       "",
		"TCP:[10.0.0.7]:9729;":       "",
		"10.0.0.7":                   "",
		"TCP:[::1.2.3.4]:9":          "TCP:[0:0:0:0:0:0:102:304]:9",
		"TCP:[10.0.0.7]:00000000001": "TCP:[10.0.0.7]:1",
		"TCP:[10.0.0.7.1]:1":         "",
		"TCP:[fe80::1%eth0]:1":       "",
	} {
		if got, err := ParsePeerID(in); got != want || (err == nil) != (want != "") {
			t.Errorf("ParsePeerID(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if got := PeerID("nobody").AddrPort(); got.IsValid() {
		t.Errorf("address of no identity: %v", got)
	}
}

func TestURLOrderVectors(t *testing.T) {
	var file struct {
		Sorted []string
		Pairs  []struct {
			A, B *string
			Sign int
		}
	}
	vectors(t, "url-order.json", &file)
	for i, a := range file.Sorted {
		for j, b := range file.Sorted {
			if got, want := sign(CompareURL(a, b)), sign(i-j); got != want {
				t.Errorf("CompareURL(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
	for _, p := range file.Pairs {
		if p.A == nil || p.B == nil {
			continue // no URL at all, which Go's strings cannot be
		}
		if got := sign(CompareURL(*p.A, *p.B)); got != sign(p.Sign) {
			t.Errorf("CompareURL(%q, %q) = %d, want %d", *p.A, *p.B, got, p.Sign)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// Order of UTF-16 units where UTF-8 bytes would order otherwise, and of text that is no UTF-8.
func TestCompareURLUnits(t *testing.T) {
	const high, low = "\xED\xA0\xBD", "\xED\xB8\x80" // D83D and DE00, each on its own
	ascending := []string{"a", "a/", "a/~", "a\x00", "a ", "a\xC3", "a\u00e9", "a\u4e00", "a" + high, "a\U0001F600", "a" + low, "a\uffee"}
	for i, a := range ascending {
		for j, b := range ascending {
			if got, want := sign(CompareURL(a, b)), sign(i-j); got != want {
				t.Errorf("CompareURL(%+q, %+q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func FuzzCompareURL(f *testing.F) {
	f.Add("http://x/a", "http://x/a-b")
	f.Add("\xff\xe9", "\U0001F600")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := sign(CompareURL(a, b)), sign(CompareURL(b, a)); x != -y {
			t.Errorf("%+q and %+q: %d one way, %d the other", a, b, x, y)
		}
		if got := CompareURL(a, a); got != 0 {
			t.Errorf("%+q with itself: %d", a, got)
		}
	})
}

func TestCurveVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			Name, Spec string
			Points     [][2]float64 `json:"points_x_y"`
		}
	}
	vectors(t, "curves.json", &file)
	for _, c := range file.Cases {
		curve, err := ParseCurve(c.Spec)
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
			continue
		}
		for _, p := range c.Points {
			if got := curve.At(p[0]); got != p[1] {
				t.Errorf("%s: At(%v) = %v, want %v", c.Name, p[0], got, p[1])
			}
		}
	}
	for _, bad := range []string{"", "[1,2", "1,2", "[1]", "[2,1],[1,1]", "[1,2][3,4]", "[1,2],", "[x,1]", "[1,y]", "[NaN,1]", "[1,Inf]"} {
		if c, err := ParseCurve(bad); err == nil {
			t.Errorf("ParseCurve(%q) = %v, want an error", bad, c)
		}
	}
	if got := (Curve{}).At(3); got != 0 {
		t.Errorf("no curve at 3: %v", got)
	}
}

func TestAUIDVectors(t *testing.T) {
	var file struct {
		Cases []struct {
			PluginID string            `json:"plugin_id"`
			Params   map[string]string `json:"definitional_params"`
			AUID     AUID              `json:"au_id"`
		}
	}
	vectors(t, "auid.json", &file)
	for _, c := range file.Cases {
		id := NewAUID(c.PluginID, c.Params)
		if id != c.AUID {
			t.Errorf("NewAUID(%q, %v) = %q, want %q", c.PluginID, c.Params, id, c.AUID)
		}
		if id.PluginID() != c.PluginID {
			t.Errorf("%q.PluginID() = %q, want %q", id, id.PluginID(), c.PluginID)
		}
		if got, err := id.Params(); err != nil || !maps.Equal(got, c.Params) {
			t.Errorf("%q.Params() = %v, %v, want %v", id, got, err, c.Params)
		}
	}
	if got := AUID("a|b|P&k~v").PluginKey(); got != "a|b|P" {
		t.Errorf("plugin key %q", got)
	}
	for _, bad := range []AUID{"P&k", "P&k~%", "P&k~%2", "P&k~%zz", "P&%z1~v"} {
		if p, err := bad.Params(); err == nil {
			t.Errorf("%q.Params() = %v, want an error", bad, p)
		}
	}
}

func TestSampleVectors(t *testing.T) {
	var file struct {
		URLs  []string
		Cases []struct {
			Algorithm string `json:"hash_algorithm"`
			Nonce     string `json:"sample_nonce"`
			Modulus   int
			Included  []int `json:"included_indices"`
		}
	}
	vectors(t, "sample.json", &file)
	for _, c := range file.Cases {
		h, err := NewHash(c.Algorithm)
		if err != nil {
			t.Fatal(err)
		}
		nonce, err := hex.DecodeString(c.Nonce)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i, u := range file.URLs {
			if InSample(h, nonce, c.Modulus, u) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, c.Included) {
			t.Errorf("%s, nonce %s, modulus %d: sample %v, want %v", c.Algorithm, c.Nonce, c.Modulus, got, c.Included)
		}
		if !InSample(h, nonce, 0, "http://x/") {
			t.Error("modulus 0 leaves a URL out")
		}
	}
}

func TestNewHashNames(t *testing.T) {
	for name, size := range map[string]int{"SHA-1": 20, "sha1": 20, "SHA": 20, "SHA-256": 32, "sha256": 32, "SHA384": 48, "SHA-512": 64, "md5": 16, "MD-5": 16, "SHA-3": 0, "": 0} {
		h, err := NewHash(name)
		if size == 0 {
			if err == nil {
				t.Errorf("NewHash(%q) succeeds", name)
			}
			continue
		}
		if err != nil || h().Size() != size {
			t.Errorf("NewHash(%q): %v, want %d bytes", name, err, size)
		}
	}
}

func TestNewNonce(t *testing.T) {
	if a, b := NewNonce(), NewNonce(); len(a) != NonceSize || bytes.Equal(a, b) {
		t.Errorf("nonces %x and %x", a, b)
	}
}

func TestIntervals(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"10": 10 * time.Millisecond, "10ms": 10 * time.Millisecond, "5m": 5 * time.Minute, "2H": 2 * time.Hour,
		"3d": 72 * time.Hour, "10w": 70 * day, "1y": 365 * day, " 30 s ": 30 * time.Second, "-1": -time.Millisecond, "0": 0,
	} {
		if got, err := ParseInterval(in); err != nil || got != want {
			t.Errorf("ParseInterval(%q) = %v, %v, want %v", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "m", "5x", "1.5h", "5 m 3 s", "5mm", "9999999999999999w", "300y"} {
		if got, err := ParseInterval(bad); err == nil {
			t.Errorf("ParseInterval(%q) = %v, want an error", bad, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0", 1500 * time.Millisecond: "1500ms", 90 * time.Second: "90s", time.Hour: "1h",
		48 * time.Hour: "2d", 10 * week: "10w", year: "1y", time.Microsecond: "0", -2 * time.Minute: "-2m"} {
		if got := FormatInterval(d); got != want {
			t.Errorf("FormatInterval(%v) = %q, want %q", d, got, want)
		}
	}
}

func TestRates(t *testing.T) {
	for in, want := range map[string]Rate{"50/1d": {50, day}, "1/6s": {1, 6 * time.Second}, "400/100": {400, 100 * time.Millisecond}, " Unlimited": {}} {
		got, err := ParseRate(in)
		if err != nil || got != want {
			t.Errorf("ParseRate(%q) = %v, %v, want %v", in, got, err, want)
		}
		if again, err := ParseRate(got.String()); err != nil || again != want {
			t.Errorf("%v written and read: %v, %v", want, again, err)
		}
	}
	for _, bad := range []string{"", "5", "/1d", "0/1d", "-1/1d", "5/0", "5/x"} {
		if got, err := ParseRate(bad); err == nil {
			t.Errorf("ParseRate(%q) = %v, want an error", bad, got)
		}
	}
}
