package settings

import (
	"slices"
	"strconv"
	"strings"

	"armarium/daemon/javaprops"
)

// PlatformVersion is what the daemon is told to run on; network files test it.
const PlatformVersion = "Appliance-1"

// RunDir is where PID 1 puts what it derives at each boot.
const RunDir = "/run/armarium"

// A Sealed is the content of a good slot.
type Sealed struct {
	Generation uint64
	Code       string            // seal code, "AAAA-BBBB-CCCC-DDDD"
	Config     map[string]string // config.dat
	Appliance  Appliance
	Keys       map[string][]byte // key files by name, without "keys/"
}

// Hostname is the full name of the box.
func (s *Sealed) Hostname() string { return s.Config["LOCKSS_HOSTNAME"] }

// UIPort is the port of the admin pages, where the daemon also answers for its health.
func (s *Sealed) UIPort() int {
	n, _ := strconv.Atoi(s.Config["LOCKSS_UI_PORT"]) // checked by Open
	return n
}

// Mounts are the mount points of the content disks, in order: "/cache0", …
func (s *Sealed) Mounts() []string {
	var m []string
	for p := range strings.SplitSeq(s.Config["LOCKSS_DISK_PATHS"], ";") {
		m = append(m, strings.TrimSuffix(p, "/gamma"))
	}
	return m
}

// mayBeTmp tells whether dir may be the temporary directory. It is emptied at each start, so
// it must not be, hold or be reached through anything that is preserved.
func mayBeTmp(dir string, paths []string) bool {
	return dir == "/tmp" || slices.ContainsFunc(paths, func(p string) bool { return dir == p+"/tmp" })
}

// TmpDir is the daemon's temporary directory.
func (s *Sealed) TmpDir() string {
	if t := s.Config["LOCKSS_TMPDIR"]; t != "" {
		return t
	}
	return "/tmp"
}

// ClearTmpDir tells whether TmpDir is emptied at each start (config.md 2.2).
func (s *Sealed) ClearTmpDir() bool {
	switch s.Config["LOCKSS_CLEAR_TMPDIR"] {
	case "yes", "Yes", "YES":
		return s.TmpDir() != "/tmp" && s.TmpDir() != "/var/tmp"
	}
	return false
}

// BlankDisk tells whether a blank disk of this serial number may be made a content disk
// without a person asking.
func (s *Sealed) BlankDisk(serial string) bool {
	if s.Appliance.CacheDisks == DisksAnyBlank {
		return true
	}
	names, ok := strings.CutPrefix(s.Appliance.CacheDisks, diskSerial)
	if !ok || serial == "" {
		return false
	}
	for n := range strings.SplitSeq(names, ",") {
		if n == serial {
			return true
		}
	}
	return false
}

// MayFormat tells whether any blank disk could be used, BlankDisk which.
func (s *Sealed) MayFormat() bool { return s.Appliance.CacheDisks != DisksByLabel }

// DaemonArgs are the arguments of the daemon before its platform file and socket: groups and
// network configuration.
func (s *Sealed) DaemonArgs() []string {
	args := []string{"-g", s.Config["LOCKSS_TEST_GROUP"]}
	urls, _ := propsURLs(s.Config["LOCKSS_PROPS_URL"]) // checked by Open
	for _, u := range urls {
		args = append(args, "-p", u)
	}
	return args
}

// PlatformProperties are the parameters of local.txt (config.md 3).
func (s *Sealed) PlatformProperties() map[string]string {
	c := s.Config
	ip := c["LOCKSS_EXTERNAL_IPADDR"]
	if ip == "" {
		ip = c["LOCKSS_IPADDR"]
	}
	const p = "org.lockss.platform."
	return map[string]string{
		p + "localIPAddress":                   c["LOCKSS_IPADDR"],
		p + "v3.identity":                      "TCP:[" + ip + "]:" + c["LOCKSS_V3_PORT"],
		p + "diskSpacePaths":                   c["LOCKSS_DISK_PATHS"],
		p + "version":                          PlatformVersion,
		p + "sysadminemail":                    c["LOCKSS_EMAIL"],
		p + "accesssubnet":                     c["LOCKSS_ACCESS_SUBNET"],
		p + "smtphost":                         c["LOCKSS_MAILHUB"],
		p + "smtpport":                         "25",
		p + "tmpDir":                           s.TmpDir(),
		p + "logdirectory":                     RunDir + "/log",
		p + "logfile":                          "daemon",
		p + "fqdn":                             c["LOCKSS_HOSTNAME"],
		p + "ui.username":                      c["LOCKSS_ADMIN_USER"],
		p + "ui.password":                      c["LOCKSS_ADMIN_PASSWD"],
		p + "watchdog.file":                    "",
		p + "watchdog.interval":                "",
		p + "propsProxy":                       c["LOCKSS_PROPS_PROXY"],
		p + "remoteConfigFailover":             c["LOCKSS_CONFIG_FAILOVER_ENABLE"],
		p + "remoteConfigFailoverMaxAge":       c["LOCKSS_CONFIG_FAILOVER_MAX_AGE"],
		"org.lockss.log.targets":               "org.lockss.util.FileTarget",
		"org.lockss.proxy.port":                c["LOCKSS_PROXY_PORT"],
		"org.lockss.ui.port":                   c["LOCKSS_UI_PORT"],
		"org.lockss.config.serverAuthKeystore": c["LOCKSS_PROPS_SERVER_AUTHENTICATE_KEYSTORE"],
	}
}

// PlatformFile is local.txt: PlatformProperties as the daemon reads them.
func (s *Sealed) PlatformFile() []byte {
	return javaprops.Append(nil, []string{"made from the sealed settings " + s.Code + " at each start"}, s.PlatformProperties())
}
