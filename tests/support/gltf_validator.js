// Prints the report of Khronos' glTF validator on one file as JSON: node gltf_validator.js PACKAGE FILE
const fs = require("fs");
const validator = require(process.argv[2]);
const bytes = new Uint8Array(fs.readFileSync(process.argv[3]));
validator
  .validateBytes(bytes, { uri: process.argv[3], maxIssues: 0, writeTimestamp: false })
  .then((report) => process.stdout.write(JSON.stringify(report)))
  .catch((error) => {
    process.stderr.write(String(error));
    process.exit(1);
  });
