#!/usr/bin/env bash
# Fetches the two icon sets into a folder and checks them: Noto (Apache-2.0) and Fluent Emoji Flat (MIT).
# Usage: icons/fetch.sh [FOLDER, default runs/icons]
set -euo pipefail
folder=${1:-runs/icons}
mkdir -p "$folder"
cd "$folder"
npm pack --silent @iconify-json/noto@1.2.9 @iconify-json/fluent-emoji-flat@1.2.6
sha256sum --check - <<'SUMS'
3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad  iconify-json-noto-1.2.9.tgz
7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175  iconify-json-fluent-emoji-flat-1.2.6.tgz
SUMS
for set in noto-1.2.9 fluent-emoji-flat-1.2.6; do
    tar --extract --gzip --file "iconify-json-$set.tgz" --transform "s|^package|${set%-*}|" package/{icons,info,metadata}.json
done
