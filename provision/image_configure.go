package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"armarium/appliance/settings"
	"armarium/image/diskimg"
	"armarium/image/layout"
)

func imageConfigureCommand() *cobra.Command {
	var answers, out, nodeFrom string
	var keyFiles []string
	var force bool
	c := &cobra.Command{
		Use:   "configure GENERIC --answers FILE -o OUT",
		Short: "Make a generic image the image of one node",
		Long: `Copies the generic image, checks the answers and seals them into the copy. Written is only the copy;
both slots for settings get the same bytes, are flushed and read back. The seal code at the end is shown by
the box at every start: note it down and compare.

The answers file has KEY=value lines; "armarium image configure --help-answers" prints a commented one.

With --node-from IMAGE the new image continues the node of an older one: same node id, same key files,
next generation. Its disks then belong to the new image as well.`,
		Example: `  armarium image configure armarium.img --answers library.txt -o library.img
  armarium image configure armarium-2.img --answers library.txt --node-from library.img -o library-2.img`,
		Args: func(cmd *cobra.Command, a []string) error {
			if sample, _ := cmd.Flags().GetBool("help-answers"); sample {
				return nil
			}
			return args(1, 1, "one generic image")(cmd, a)
		},
		RunE: func(cmd *cobra.Command, a []string) error {
			if sample, _ := cmd.Flags().GetBool("help-answers"); sample {
				_, err := io.WriteString(cmd.OutOrStdout(), sampleAnswers)
				return err
			}
			if answers == "" || out == "" {
				return usagef("say with --answers which answers to seal, and with -o which file to write")
			}
			if err := mayWrite(out, force); err != nil {
				return err
			}
			b, err := readFile(cmd, answers)
			if err != nil {
				return err
			}
			ans, err := settings.ParseAnswers(b)
			if err != nil {
				return fmt.Errorf("answers %s:\n%w", answers, err)
			}
			files := map[string][]byte{}
			for _, k := range keyFiles {
				name, file, ok := strings.Cut(k, "=")
				if !ok {
					return usagef("--key %q: want NAME=FILE", k)
				}
				if files[name], err = readFile(cmd, file); err != nil {
					return err
				}
			}
			code, err := configure(a[0], out, *ans, files, nodeFrom)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: configured for %s\nseal code %s: note it down; the box shows it at every start\n", out, ans.Classic["LOCKSS_HOSTNAME"], code)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&answers, "answers", "", "answers file")
	f.StringVarP(&out, "output", "o", "", "image file to write")
	f.StringVar(&nodeFrom, "node-from", "", "configured image of the node that is to be continued")
	f.StringArrayVar(&keyFiles, "key", nil, "key file to seal in, NAME=FILE; repeat")
	f.Bool("help-answers", false, "print a commented answers file")
	f.BoolVar(&force, "force", false, "replace an existing file")
	return c
}

// configure makes out from the generic image and returns the seal code. The file has its
// name only when everything in it is written and read back.
func configure(generic, out string, ans settings.Answers, files map[string][]byte, nodeFrom string) (code string, err error) {
	keys := settings.NewKeys()
	if nodeFrom != "" {
		old, err := openSealed(nodeFrom)
		if err != nil {
			return "", err
		}
		keys = old.Next()
	}
	if len(files) > 0 && keys.Files == nil {
		keys.Files = map[string][]byte{}
	}
	for k, v := range files {
		keys.Files[k] = v
	}
	src, err := os.Open(generic)
	if err != nil {
		return "", err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if err := copySparse(tmp, src); err != nil {
		return "", fmt.Errorf("copy %s: %w", generic, err)
	}
	im, err := diskimg.Open(tmp.Name())
	if err != nil {
		return "", fmt.Errorf("%s: %w", generic, err)
	}
	defer im.Close()
	m, err := im.Manifest()
	if err != nil {
		return "", fmt.Errorf("%s: %w", generic, err)
	}
	have, err := slots(im, m.ImageID)
	if err != nil {
		return "", err
	}
	if have.Verdict != settings.NotConfigured {
		return "", fmt.Errorf("%s is not generic (%s): take the image as it was released", generic, have.Verdict)
	}
	keys.ImageID = m.ImageID
	slot, err := settings.Seal(ans, keys)
	if err != nil {
		return "", err
	}
	for i := range layout.Slots {
		if err := im.WriteSlot(i, slot); err != nil {
			return "", err
		}
	}
	made, err := slots(im, m.ImageID)
	if err != nil {
		return "", err
	}
	if made.Verdict != settings.Good {
		return "", fmt.Errorf("%s: the settings do not read back (%s)", out, made.Verdict)
	}
	if err := tmp.Chmod(0o600); err != nil { // it holds the node's keys
		return "", err
	}
	return made.Sealed.Code, finish(tmp, out, nil)
}

// openSealed reads the settings of a configured image.
func openSealed(file string) (*settings.Sealed, error) {
	im, err := diskimg.Open(file)
	if err != nil {
		return nil, err
	}
	defer im.Close()
	m, err := im.Manifest()
	if err != nil {
		return nil, err
	}
	c, err := slots(im, m.ImageID)
	if err != nil {
		return nil, err
	}
	if c.Sealed == nil {
		return nil, fmt.Errorf("%s has no settings to continue (%s)", file, c.Verdict)
	}
	return c.Sealed, nil
}

// copySparse copies and leaves holes where src has only zeros.
func copySparse(dst *os.File, src *os.File) error {
	buf := make([]byte, 1<<20)
	var pos int64
	for {
		n, err := io.ReadFull(src, buf)
		if n > 0 && !allZero(buf[:n]) {
			if _, err := dst.WriteAt(buf[:n], pos); err != nil {
				return err
			}
		}
		pos += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return dst.Truncate(pos)
		}
		if err != nil {
			return err
		}
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

const sampleAnswers = `# Answers for one node. Lines that begin with # are comments.
# Keys that begin with LOCKSS_ are those of the classic host questionnaire.

# --- the box and its network
LOCKSS_HOSTNAME=lockss.library.example.edu
NETWORK=static
ADDRESS=192.0.2.7/24
GATEWAY=192.0.2.1
DNS=192.0.2.53
LOCKSS_IPADDR=192.0.2.7
# Time servers; without them the clock of the box counts.
NTP_SERVERS=ntp.example.edu

# --- who may see the pages of the node, and who administers it
LOCKSS_ACCESS_SUBNET=192.0.2.0/24
LOCKSS_EMAIL=lockss-admin@library.example.edu
LOCKSS_ADMIN_USER=admin
# In clear here; only its hash is sealed. Delete this file afterwards.
ADMIN_PASSWORD=change this

# --- the preservation network: its administrator tells these
LOCKSS_PROPS_URL=http://props.network.example.org/lockss.xml
LOCKSS_TEST_GROUP=prod

# --- disks: label uses disks that are labelled cache0, cache1, …; any-blank also makes
# content disks of blank disks; serial:A,B only of those with these serial numbers
CACHE_DISKS=any-blank
LOCKSS_DISK_PATHS=/cache0/gamma
# software, or hardware if the stick has a write-protect switch
LOCK_REQUIRE=software
`
