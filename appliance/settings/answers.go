package settings

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Limits of an answers file and of config.dat.
const (
	maxAnswers = 256 << 10 // bytes of the file
	maxValue   = 8 << 10   // bytes of one value
	maxDisks   = 100       // /cache0 … /cache99
)

// Kinds of network, choice of disks, and demanded locks.
const (
	DHCP   = "dhcp"
	Static = "static"

	DisksByLabel  = "label"
	DisksAnyBlank = "any-blank"
	diskSerial    = "serial:"

	LockSoftware = "software"
	LockHardware = "hardware"
)

// DaemonID is the uid and gid of the daemon unless the disks of an older box say otherwise.
const DaemonID = 900

// Answers are the checked answers for one node.
type Answers struct {
	Classic       map[string]string // LOCKSS_… keys, defaults filled in; no password in clear
	AdminPassword string            // in clear; "": Classic holds LOCKSS_ADMIN_PASSWD
	Network       Network
	CacheDisks    string   // DisksByLabel, DisksAnyBlank or "serial:A,B"
	LockRequire   string   // LockSoftware or LockHardware
	Detach        bool     // cut the stick off the bus after reading
	NTPServers    []string // host or host:port
	NodeID        string   // 32 hex digits; "": that of the Keys
}

// A Network is how the box gets its addresses.
type Network struct {
	Mode      string   `json:"mode"`      // DHCP or Static
	Address   string   `json:"address"`   // "192.0.2.7/24"; "" with plain DHCP
	Gateway   string   `json:"gateway"`   // "192.0.2.1" or ""
	Interface string   `json:"interface"` // MAC address "52:54:00:12:34:56" or ""
	DNS       []string `json:"dns"`       // addresses
}

// An AnswerError is one fault of an answers file.
type AnswerError struct {
	Line    int    // from 1; 0: the key is nowhere in the file
	Key     string // "" when the line has none
	Problem string
	Fix     string // what to write instead
}

func (e *AnswerError) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", e.Line)
	}
	if e.Key != "" {
		b.WriteString(e.Key + " ")
	}
	b.WriteString(e.Problem)
	if e.Fix != "" {
		b.WriteString("; " + e.Fix)
	}
	return b.String()
}

// classicOrder is the order of the questionnaire (config.md 2.3); config.dat is written in it.
var classicOrder = []string{
	"LOCKSS_CONFIG_VERSION", "LOCKSS_USER", "LOCKSS_HOSTNAME", "LOCKSS_IPADDR",
	"LOCKSS_EXTERNAL_IPADDR", "LOCKSS_ACCESS_SUBNET", "LOCKSS_V3_PORT", "LOCKSS_PROXY_PORT",
	"LOCKSS_UI_PORT", "LOCKSS_MAILHUB", "LOCKSS_MAILHUB_USER", "LOCKSS_MAILHUB_PASSWORD",
	"LOCKSS_EMAIL", "LOCKSS_PROPS_URL", "LOCKSS_PROPS_SERVER_AUTHENTICATE_KEYSTORE",
	"LOCKSS_PROPS_PROXY", "LOCKSS_CONFIG_FAILOVER_ENABLE", "LOCKSS_CONFIG_FAILOVER_MAX_AGE",
	"LOCKSS_TEST_GROUP", "LOCKSS_DISK_PATHS", "LOCKSS_TMPDIR", "LOCKSS_CLEAR_TMPDIR",
	"LOCKSS_ADMIN_USER", "LOCKSS_ADMIN_PASSWD",
}

var applianceKeys = []string{
	"NETWORK", "ADDRESS", "GATEWAY", "INTERFACE", "DNS", "NTP_SERVERS", "CACHE_DISKS",
	"LOCK_REQUIRE", "DETACH", "ADMIN_PASSWORD", "NODE_ID",
}

// classicDefaults are the defaults of the questionnaire that do not depend on other answers.
var classicDefaults = map[string]string{
	"LOCKSS_CONFIG_VERSION": "1", "LOCKSS_USER": "lockss", "LOCKSS_V3_PORT": "9729",
	"LOCKSS_PROXY_PORT": "8080", "LOCKSS_UI_PORT": "8081", "LOCKSS_MAILHUB": "localhost",
	"LOCKSS_PROPS_PROXY": "NONE", "LOCKSS_CONFIG_FAILOVER_ENABLE": "Y",
	"LOCKSS_TEST_GROUP": "prod", "LOCKSS_DISK_PATHS": "/cache0/gamma", "LOCKSS_CLEAR_TMPDIR": "yes",
}

// form is an answers file while it is checked.
type form struct {
	values map[string]string
	lines  map[string]int
	errs   []error
}

func (f *form) fault(key, problem, fix string) {
	f.errs = append(f.errs, &AnswerError{Line: f.lines[key], Key: key, Problem: problem, Fix: fix})
}

// get gives the value of key, or def when the answer is absent or empty.
func (f *form) get(key, def string) string {
	if v := f.values[key]; v != "" {
		return v
	}
	return def
}

// ParseAnswers reads an answers file, fills in defaults and checks everything. The error
// joins all faults, each an *AnswerError; the Answers are nil then.
func ParseAnswers(b []byte) (*Answers, error) {
	f := &form{values: map[string]string{}, lines: map[string]int{}}
	f.read(b)
	a := &Answers{Classic: map[string]string{}}
	f.host(a)
	f.network(a)
	f.ports(a)
	f.people(a)
	f.disks(a)
	f.stick(a)
	f.derived(a)
	if len(f.errs) > 0 {
		slices.SortStableFunc(f.errs, func(x, y error) int {
			return lineOf(x) - lineOf(y)
		})
		return nil, errors.Join(f.errs...)
	}
	return a, nil
}

// lineOf sorts missing answers behind the lines that are there.
func lineOf(err error) int {
	if e, ok := errors.AsType[*AnswerError](err); ok && e.Line > 0 {
		return e.Line
	}
	return 1 << 30
}

func (f *form) read(b []byte) {
	if len(b) > maxAnswers {
		f.errs = append(f.errs, &AnswerError{Problem: fmt.Sprintf("the file has %d bytes", len(b)),
			Fix: fmt.Sprintf("an answers file has at most %d", maxAnswers)})
		return
	}
	for i, line := range strings.Split(string(b), "\n") {
		n := i + 1
		line = strings.TrimSuffix(line, "\r")
		if t := strings.TrimSpace(line); t == "" || t[0] == '#' {
			continue
		}
		key, value, ok := keyValue(line)
		if !ok {
			f.errs = append(f.errs, &AnswerError{Line: n, Problem: "is not KEY=value",
				Fix: "begin the line with a key in capital letters, or with # for a comment"})
			continue
		}
		e := &AnswerError{Line: n, Key: key}
		switch {
		case f.lines[key] > 0:
			e.Problem = fmt.Sprintf("was answered in line %d already", f.lines[key])
			e.Fix = "keep one of the two lines"
		case !strings.HasPrefix(key, "LOCKSS_") && !slices.Contains(applianceKeys, key):
			e.Problem = "is not a known key"
			e.Fix = suggestion(key)
		case len(value) > maxValue:
			e.Problem = fmt.Sprintf("has %d bytes", len(value))
			e.Fix = fmt.Sprintf("a value has at most %d", maxValue)
		case !utf8.ValidString(value) || strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '`' }):
			e.Problem = "holds a back-quote, a control character or bytes that are not UTF-8"
			e.Fix = "remove them"
		default:
			f.values[key], f.lines[key] = value, n
			continue
		}
		f.errs = append(f.errs, e)
	}
}

// keyValue splits a line of an answers file or of config.dat (config.md 2.1).
func keyValue(line string) (key, value string, ok bool) {
	key, value, ok = strings.Cut(line, "=")
	if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool {
		return (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
	}) {
		return "", "", false
	}
	value = strings.TrimSpace(value)
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return key, value, true
}

// suggestion names the known key that is most like a mistyped one.
func suggestion(key string) string {
	best, bestD := "", 4
	for _, k := range slices.Concat(applianceKeys, classicOrder) {
		if d := distance(key, k); d < bestD {
			best, bestD = k, d
		}
	}
	if best == "" {
		return "keys are those of the questionnaire and " + strings.Join(applianceKeys, " ")
	}
	return "did you mean " + best + "?"
}

// distance is the number of letters to insert, delete or replace between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diag
			if a[i] != b[j] {
				d++
			}
			diag = row[j+1]
			row[j+1] = min(d, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// host checks questions 1 to 3.
func (f *form) host(*Answers) {
	name := f.values["LOCKSS_HOSTNAME"]
	switch {
	case name == "":
		f.fault("LOCKSS_HOSTNAME", "is missing", "give the full name of the machine, node.example.org")
	case !hostName(name):
		f.fault("LOCKSS_HOSTNAME", fmt.Sprintf("%q is not a host name", name), "use letters, digits, hyphens and dots, at most 253")
	}
	if v := f.values["LOCKSS_EXTERNAL_IPADDR"]; v != "" && !ipv4(v) {
		f.fault("LOCKSS_EXTERNAL_IPADDR", fmt.Sprintf("%q is not an IPv4 address", v), "write four numbers 0 to 255, 192.0.2.7, or leave it empty")
	}
}

// network checks questions 2 and 4 and those about interfaces.
func (f *form) network(a *Answers) {
	n := &a.Network
	n.Mode = strings.ToLower(f.get("NETWORK", DHCP))
	if n.Mode != DHCP && n.Mode != Static {
		f.fault("NETWORK", fmt.Sprintf("%q is not known", n.Mode), "write dhcp or static")
	}
	var prefix netip.Prefix
	if v := f.values["ADDRESS"]; v != "" {
		p, err := netip.ParsePrefix(v)
		if err != nil || !p.Addr().Is4() || p.Addr().IsUnspecified() || p.Bits() < 8 {
			f.fault("ADDRESS", fmt.Sprintf("%q is not an IPv4 address with prefix length", v), "write it as 192.0.2.7/24")
		} else {
			prefix, n.Address = p, p.String()
		}
	} else if n.Mode == Static {
		f.fault("ADDRESS", "is missing", "NETWORK=static needs it, as 192.0.2.7/24")
	}
	if v := f.values["INTERFACE"]; v != "" {
		hw, err := net.ParseMAC(v)
		if err != nil || len(hw) != 6 {
			f.fault("INTERFACE", fmt.Sprintf("%q is not a MAC address", v), "write it as 52:54:00:12:34:56")
		} else {
			n.Interface = hw.String()
		}
	} else if n.Mode == DHCP && n.Address != "" {
		f.fault("ADDRESS", "is given with NETWORK=dhcp", "write NETWORK=static, or name with INTERFACE the one interface that has it")
	}
	if v := f.values["GATEWAY"]; v != "" {
		switch gw, err := netip.ParseAddr(v); {
		case err != nil || !gw.Is4():
			f.fault("GATEWAY", fmt.Sprintf("%q is not an IPv4 address", v), "write four numbers 0 to 255")
		case n.Mode == DHCP:
			f.fault("GATEWAY", "is given with NETWORK=dhcp", "remove it: the lease tells the gateway")
		case prefix.IsValid() && !prefix.Contains(gw):
			f.fault("GATEWAY", fmt.Sprintf("%s is not inside %s", gw, prefix.Masked()), "the router must be on the same network as ADDRESS")
		default:
			n.Gateway = gw.String()
		}
	}
	n.DNS = []string{}
	for _, v := range list(f.values["DNS"]) {
		d, err := netip.ParseAddr(v)
		if err != nil {
			f.fault("DNS", fmt.Sprintf("%q is not an address", v), "write addresses of name servers, separated by commas")
			continue
		}
		n.DNS = append(n.DNS, d.String())
	}
	if len(n.DNS) > 3 {
		f.fault("DNS", "has more than 3 addresses", "keep the best three")
	}
	a.NTPServers = []string{}
	for _, v := range list(f.values["NTP_SERVERS"]) {
		host, port := v, ""
		if h, p, err := net.SplitHostPort(v); err == nil {
			host, port = h, p
		}
		if _, err := netip.ParseAddr(host); (err != nil && !hostName(host)) || (port != "" && !portNumber(port, 1)) {
			f.fault("NTP_SERVERS", fmt.Sprintf("%q is not a server", v), "write names or addresses, separated by commas")
			continue
		}
		a.NTPServers = append(a.NTPServers, v)
	}
	if len(a.NTPServers) > 4 {
		f.fault("NTP_SERVERS", "has more than 4 servers", "keep four, best of different operators")
	}

	ip := f.values["LOCKSS_IPADDR"]
	switch {
	case ip == "" && n.Mode == Static && prefix.IsValid():
		f.values["LOCKSS_IPADDR"] = prefix.Addr().String()
	case ip == "":
		f.fault("LOCKSS_IPADDR", "is missing", "give the address of the box, with DHCP the one the server always gives to it: other nodes know the box by it")
	case !ipv4(ip):
		f.fault("LOCKSS_IPADDR", fmt.Sprintf("%q is not an IPv4 address", ip), "write four numbers 0 to 255, not 0.0.0.0")
	case n.Mode == Static && prefix.IsValid() && prefix.Addr().String() != ip:
		f.fault("LOCKSS_IPADDR", fmt.Sprintf("%s is not the ADDRESS %s", ip, prefix.Addr()), "make them equal, or leave LOCKSS_IPADDR out")
	}
	if v := f.values["LOCKSS_ACCESS_SUBNET"]; v == "" {
		if d, err := netip.ParseAddr(f.values["LOCKSS_IPADDR"]); err == nil && d.Is4() {
			p, _ := d.Prefix(24)
			f.values["LOCKSS_ACCESS_SUBNET"] = p.String()
		}
	} else {
		for _, s := range strings.Split(v, ";") {
			if !subnet(strings.TrimSpace(s)) {
				f.fault("LOCKSS_ACCESS_SUBNET", fmt.Sprintf("%q is not a subnet", s), "write 192.0.2.0/24, 192.0.2.0/255.255.255.0 or 192.0.2.*")
			}
		}
	}
}

// ports checks questions 5 to 7. The daemon has no right to ports below 1024.
func (f *form) ports(*Answers) {
	used := map[string]string{}
	for _, k := range []string{"LOCKSS_V3_PORT", "LOCKSS_PROXY_PORT", "LOCKSS_UI_PORT"} {
		v := f.get(k, classicDefaults[k])
		if !portNumber(v, 1024) {
			f.fault(k, fmt.Sprintf("%q is not a usable port", v), "write a number 1024 to 65535")
			continue
		}
		if other := used[v]; other != "" {
			f.fault(k, fmt.Sprintf("%s is also %s", v, other), "give each service its own port")
		}
		used[v] = k
	}
}

// people checks questions 8 to 10, 13, 16, 19 and 20.
func (f *form) people(a *Answers) {
	if v := f.values["LOCKSS_EMAIL"]; v == "" {
		f.fault("LOCKSS_EMAIL", "is missing", "give the mail address of the administrator")
	} else if !strings.Contains(v, "@") || strings.ContainsAny(v, " \t") {
		f.fault("LOCKSS_EMAIL", fmt.Sprintf("%q is not a mail address", v), "write name@example.org")
	}
	if f.values["LOCKSS_MAILHUB_PASSWORD"] != "" && f.values["LOCKSS_MAILHUB_USER"] == "" {
		f.fault("LOCKSS_MAILHUB_PASSWORD", "is given without LOCKSS_MAILHUB_USER", "give both or none")
	}
	urls, ok := propsURLs(f.values["LOCKSS_PROPS_URL"])
	switch {
	case f.values["LOCKSS_PROPS_URL"] == "":
		f.fault("LOCKSS_PROPS_URL", "is missing", "give the address of the network's configuration, http://props.example.org/lockss.xml")
	case !ok:
		f.fault("LOCKSS_PROPS_URL", "is not understood", "write one URL, or -p URL -p URL …")
	default:
		for _, v := range urls {
			u, err := url.Parse(v)
			if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
				f.fault("LOCKSS_PROPS_URL", fmt.Sprintf("%q is not a web address", v), "write http://host/path or https://host/path")
			}
		}
	}
	if v := f.values["LOCKSS_PROPS_PROXY"]; v != "" && !strings.EqualFold(v, "NONE") {
		if h, p, err := net.SplitHostPort(v); err != nil || h == "" || !portNumber(p, 1) {
			f.fault("LOCKSS_PROPS_PROXY", fmt.Sprintf("%q is not a proxy", v), "write host:port, or NONE")
		}
	}
	for _, g := range strings.Split(f.values["LOCKSS_TEST_GROUP"], ";") {
		if strings.ContainsAny(g, " \t,") {
			f.fault("LOCKSS_TEST_GROUP", fmt.Sprintf("%q is not a group", g), "separate groups by semicolons, without blanks")
		}
	}
	if f.values["LOCKSS_ADMIN_USER"] == "" {
		f.fault("LOCKSS_ADMIN_USER", "is missing", "give the name of the first user of the pages")
	} else if strings.ContainsAny(f.values["LOCKSS_ADMIN_USER"], ": \t/") {
		f.fault("LOCKSS_ADMIN_USER", "holds a blank, a colon or a slash", "use letters and digits")
	}
	plain, hashed := f.values["ADMIN_PASSWORD"], f.values["LOCKSS_ADMIN_PASSWD"]
	switch {
	case plain != "" && hashed != "":
		f.fault("ADMIN_PASSWORD", "and LOCKSS_ADMIN_PASSWD are both given", "keep one of the two")
	case plain == "" && hashed == "":
		f.fault("ADMIN_PASSWORD", "is missing", "give a password of 8 or more characters, or LOCKSS_ADMIN_PASSWD of an older box")
	case plain != "" && utf8.RuneCountInString(plain) < 8:
		f.fault("ADMIN_PASSWORD", "is too short", "use 8 or more characters")
	case hashed != "" && !passwordHash(hashed):
		f.fault("LOCKSS_ADMIN_PASSWD", "is not a password hash", "write SHA-256: and 64 hex digits, or give ADMIN_PASSWORD instead")
	}
	a.AdminPassword = plain
}

// disks checks questions 17 and 18 and the choice of disks.
func (f *form) disks(a *Answers) {
	seen := map[string]bool{}
	paths := strings.Split(f.get("LOCKSS_DISK_PATHS", classicDefaults["LOCKSS_DISK_PATHS"]), ";")
	for i, p := range paths {
		p = strings.TrimSuffix(strings.TrimSpace(p), "/")
		paths[i] = p
		switch _, ok := diskNumber(p); {
		case !ok:
			f.fault("LOCKSS_DISK_PATHS", fmt.Sprintf("%q is not a content directory of the appliance", p), "write /cache0/gamma;/cache1/gamma …, at most /cache99/gamma")
		case seen[p]:
			f.fault("LOCKSS_DISK_PATHS", fmt.Sprintf("names %q twice", p), "name every directory once")
		}
		seen[p] = true
	}
	f.values["LOCKSS_DISK_PATHS"] = strings.Join(paths, ";")
	switch tmp := f.get("LOCKSS_TMPDIR", paths[0]+"/tmp"); {
	case mayBeTmp(tmp, paths):
		f.values["LOCKSS_TMPDIR"] = tmp
	default:
		f.fault("LOCKSS_TMPDIR", fmt.Sprintf("%q is not the directory tmp of a content disk", tmp), "write "+paths[0]+"/tmp, or leave it out")
	}

	a.CacheDisks = f.get("CACHE_DISKS", DisksByLabel)
	if s, ok := strings.CutPrefix(a.CacheDisks, diskSerial); ok {
		serials := list(s)
		if len(serials) == 0 {
			f.fault("CACHE_DISKS", "names no serial number", "write serial:ABC123, or serial:ABC123,DEF456")
		}
		a.CacheDisks = diskSerial + strings.Join(serials, ",")
	} else if a.CacheDisks != DisksByLabel && a.CacheDisks != DisksAnyBlank {
		f.fault("CACHE_DISKS", fmt.Sprintf("%q is not known", a.CacheDisks), "write label, any-blank or serial:NUMBER")
	}
}

// stick checks the questions about the stick and the node.
func (f *form) stick(a *Answers) {
	a.LockRequire = strings.ToLower(f.get("LOCK_REQUIRE", LockSoftware))
	if a.LockRequire != LockSoftware && a.LockRequire != LockHardware {
		f.fault("LOCK_REQUIRE", fmt.Sprintf("%q is not known", a.LockRequire), "write software or hardware")
	}
	switch v := strings.ToLower(f.get("DETACH", "yes")); v {
	case "yes":
		a.Detach = true
	case "no":
	default:
		f.fault("DETACH", fmt.Sprintf("%q is not known", v), "write yes or no")
	}
	if a.NodeID = strings.ToLower(f.values["NODE_ID"]); a.NodeID != "" && !nodeID(a.NodeID) {
		f.fault("NODE_ID", fmt.Sprintf("%q is not a node id", a.NodeID), "write the 32 hex digits of the file .node on the disk, or leave it out")
	}
}

// derived fills in defaults and keeps the classic answers.
func (f *form) derived(a *Answers) {
	for k, v := range f.values {
		if strings.HasPrefix(k, "LOCKSS_") {
			a.Classic[k] = v
		}
	}
	for k, v := range classicDefaults {
		if a.Classic[k] == "" {
			a.Classic[k] = v
		}
	}
	maps.DeleteFunc(a.Classic, func(_, v string) bool { return v == "" })
}

func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' || r == ' ' || r == '\t' })
}

// ipv4 checks an address as questions 2 and 3a do.
func ipv4(s string) bool {
	a, err := netip.ParseAddr(s)
	return err == nil && a.Is4() && !a.IsUnspecified()
}

// subnet checks one entry as question 4 does.
func subnet(s string) bool {
	if net, mask, ok := strings.Cut(s, "/"); ok {
		a, err := netip.ParseAddr(net)
		if err != nil || !a.Is4() {
			return false
		}
		if m, err := netip.ParseAddr(mask); err == nil {
			return m.Is4()
		}
		n, err := strconv.Atoi(mask)
		return err == nil && n >= 0 && n <= 32
	}
	parts := strings.Split(s, ".")
	if len(parts) != 4 || parts[3] != "*" || parts[0] == "*" {
		return false
	}
	star := false
	for _, p := range parts {
		if p == "*" {
			star = true
			continue
		}
		if n, err := strconv.Atoi(p); err != nil || n < 0 || n > 255 || star {
			return false
		}
	}
	return true
}

func portNumber(s string, least int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= least && n <= 65535 && strconv.Itoa(n) == s
}

func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, l := range strings.Split(s, ".") {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
		}) {
			return false
		}
	}
	return true
}

func hexDigits(s string, n int) bool {
	return len(s) == n && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'f') && (r < 'A' || r > 'F')
	})
}

func nodeID(s string) bool { return hexDigits(s, 32) }

// passwordHash accepts the classic unsalted forms (admin.md 2.3) and our own.
func passwordHash(s string) bool {
	if strings.HasPrefix(s, "$pbkdf2-sha256$") {
		return strings.Count(s, "$") == 4
	}
	alg, hex, _ := strings.Cut(s, ":")
	switch strings.ToUpper(strings.ReplaceAll(alg, "-", "")) {
	case "SHA256":
		return hexDigits(hex, 64)
	case "SHA1":
		return hexDigits(hex, 40)
	case "SHA512":
		return hexDigits(hex, 128)
	case "MD5":
		return hexDigits(hex, 32)
	}
	return false
}

// diskNumber gives N of "/cacheN/gamma".
func diskNumber(path string) (int, bool) {
	s, ok := strings.CutPrefix(path, "/cache")
	if !ok {
		return 0, false
	}
	s, ok = strings.CutSuffix(s, "/gamma")
	if !ok {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && n < maxDisks && strconv.Itoa(n) == s
}

// propsURLs splits LOCKSS_PROPS_URL: one URL, or "-p url1 -p url2 …".
func propsURLs(s string) ([]string, bool) {
	words := strings.Fields(s)
	if len(words) == 1 && words[0] != "-p" {
		return words, true
	}
	var urls []string
	for i := 0; i < len(words); i += 2 {
		if words[i] != "-p" || i+1 == len(words) {
			return nil, false
		}
		urls = append(urls, words[i+1])
	}
	return urls, len(urls) > 0
}
